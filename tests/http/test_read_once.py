"""A text on its way is tokenised, identified and encoded once; one that was read before is neither
tokenised nor identified again.
"""

import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import httpx
import pytest

from deployments.ingress.application import Application
from router.encoding import encode
from router.features import extract
from router.strict import parse_args
from tests.support.counted_tokenizer import Counted
from tests.support.local_service import FAKE, LocalRouter

ARGS = {
    "models": dict.fromkeys(("one", "two"), FAKE),
    "tiers": {"fast": "one", "best": "two"},
}


@contextmanager
def counted(*functions: Callable[..., object]) -> Iterator[Counter[str]]:
    """How often each function is called in this thread."""
    codes = {function.__code__: function.__name__ for function in functions}
    calls: Counter[str] = Counter()

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and (name := codes.get(frame.f_code)) is not None:
            calls[name] += 1

    sys.setprofile(look)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.fixture
async def router() -> AsyncIterator[LocalRouter]:
    made = LocalRouter(parse_args(ARGS))
    await made.start()
    yield made
    await made.stop()


async def ask(router: LocalRouter, *texts: str, **fields: object) -> list[Counter[str]]:
    """Send each text alone, one after another; returns what was called for each, `characters` being
    those that tokenizers were given.
    """
    tokenizers = router.service.preparer.tokenizers
    shared = tokenizers["one"]
    assert shared is not None
    reading = Counted(shared)
    tokenizers.update(dict.fromkeys(tokenizers, reading))
    seen = []
    transport = httpx.ASGITransport(Application(router, alone=True))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for text in texts:
            reading.characters = 0
            with counted(extract, encode) as calls:
                answer = await client.post("/v1/embeddings", json={"input": text, **fields})
            assert answer.status_code == 200, answer.text
            seen.append(Counter({**calls, "characters": reading.characters}))
    tokenizers.update(dict.fromkeys(tokenizers, shared))
    return seen


@pytest.mark.parametrize("words", [5, 50])  # a long one is not kept
async def test_a_new_text_is_read_and_written_once(router: LocalRouter, words: int) -> None:
    text = "Neckarinsel " * words
    (seen,) = await ask(router, text)
    assert seen == {"extract": 1, "encode": 1, "characters": len(text)}


async def test_a_text_that_was_read_before_is_only_written(router: LocalRouter) -> None:
    text = "wo ist der Bahnhof von Heidelberg"
    new, known = await ask(router, text, text)
    assert new == {"extract": 1, "encode": 1, "characters": len(text)}
    assert known == {"encode": 1, "characters": 0}
    # Another form of the answer is written of the same tokens.
    (again,) = await ask(router, text, encoding_format="base64")
    assert again == {"encode": 1, "characters": 0}
