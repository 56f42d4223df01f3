"""A short text is tokenised, identified and sent to the engine once, however many requests have it,
and never again while it is known.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from deployments.service.service import Service
from router.language import detect
from router.schema import parse
from router.strict import parse_args
from tests.support.called import Called
from tests.support.counted_tokenizer import Counted
from tests.support.hand_transport import HandTransport, settle
from tests.support.local_service import FAKE, WORDLLAMA

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

TEXT, OTHER = "wo ist der Bahnhof von Heidelberg", "wer hat den Hund gesehen"
ARGS: dict[str, Any] = {
    "models": {
        "small": {**FAKE, "dimensions": 4, "quality": {"default": 60.0}},
        "large": {**FAKE, "dimensions": 4, "quality": {"default": 70.0}},  # reads the same tokens
        "other": {**WORDLLAMA, "engine": {"kind": "fake"}, "dimensions": 4, "matryoshka": [4]},
    },
    "tiers": {"fast": "small", "balanced": "large", "best": "other"},
    "routing": {"default_tier": "fast"},
}


class Bench:
    """A service whose tokenizers, identification of languages and replicas are counted."""

    def __init__(self, called: Called) -> None:
        self.called, self.transport, self._counted = called, HandTransport(), 0
        self.service = Service(parse_args(ARGS), self.transport)
        tokenizers = self.service.preparer.tokenizers
        counting: dict[int, Counted] = {}  # models that share a tokenizer still share it
        for name, inner in tokenizers.items():
            assert inner is not None
            tokenizers[name] = counting.setdefault(id(inner), Counted(inner))
        self.tokenizers = list(counting.values())
        for name in ARGS["models"]:
            self.service.replicas_changed(name, [name])

    async def embed(self, *requests: str | list[str], **fields: object) -> list[dict[str, int]]:
        """Embed some requests at once; returns what was done with texts: once they wait for
        replicas, and when all are answered.
        """
        limits = self.service.args.limits
        asked = [parse(orjson.dumps({"input": one, **fields}), {}, limits) for one in requests]
        tasks = [asyncio.create_task(self.service.embed(request)) for request in asked]
        await settle()
        before = self.done()
        await self.transport.answer_all()
        await asyncio.gather(*tasks)
        return [before, self.done()]

    def done(self) -> dict[str, int]:
        """Texts that were tokenised, identified and sent since the last time."""
        tokenised = sum(one.texts for one in self.tokenizers)
        for one in self.tokenizers:
            one.texts = 0
        sent = sum(len(call.firsts) for call in self.transport.sent[self._counted :])
        self._counted = len(self.transport.sent)
        return {"tokenised": tokenised, **self.called.taken(), "sent": sent}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with Called(identified=detect) as called:
        made = Bench(called)
        yield made
        for dispatcher in made.service.dispatchers.values():
            await dispatcher.close()


NOTHING = {"tokenised": 0, "identified": 0, "sent": 0}
KINDS = 2  # of tokenizers, each of which reads a text for every model that it serves


async def test_a_text_on_its_way_is_read_and_sent_once(bench: Bench) -> None:
    done = await bench.embed(TEXT, TEXT, TEXT)
    assert done == [{"tokenised": KINDS, "identified": 1, "sent": 1}, NOTHING]


async def test_a_known_text_is_neither_read_nor_sent(bench: Bench) -> None:
    await bench.embed(TEXT)
    assert await bench.embed(TEXT, TEXT) == [NOTHING, NOTHING]


async def test_a_text_that_waits_in_a_list_is_not_sent_again(bench: Bench) -> None:
    (waiting, _) = await bench.embed([TEXT, OTHER, TEXT], TEXT, OTHER)
    assert waiting["sent"] == 2


async def test_a_named_model_reads_a_text_with_its_own_tokenizer_alone(bench: Bench) -> None:
    done = await bench.embed(TEXT, TEXT, model="large")
    assert done == [{"tokenised": 1, "identified": 1, "sent": 1}, NOTHING]


async def test_a_text_that_is_known_to_one_model_is_read_again_for_another(bench: Bench) -> None:
    await bench.embed(TEXT, model="small")
    done = await bench.embed(TEXT, model="other")
    assert done == [{"tokenised": 1, "identified": 1, "sent": 1}, NOTHING]
