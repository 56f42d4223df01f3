"""The same weights elsewhere answer only what they read as the space's own model does; a query of
which a student reads nothing goes on to another encoder.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.ingress.application import Application
from router.strict import parse_args
from tests.support.bridges import with_fingerprints, write_measured
from tests.support.encoders import MODELS, QUERY, away, embed, refused, served
from tests.support.local_service import LocalRouter

READS = "Instruct: {instruction}\nQuery: {text}"
OTHER_CUT = "copy reads more or fewer tokens of a long text than the space's own model"
OTHER_PROOF = "copy was measured with another instruction"


@asynccontextmanager
async def with_copy(
    folder: Path,
    own: dict[str, Any],
    copy: dict[str, Any],
    measured: tuple[str | None] | None = None,
    **docs: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, LocalRouter]]:
    """A router with `large` and its `copy`; `measured` is the instruction of the copy's proof."""
    models = {"large": {**MODELS["large"], **own}, "copy": {**MODELS["large"], **copy}}
    args = await with_fingerprints({"models": models, "tiers": {"fast": "large"}}, folder)
    if measured is not None:
        proof = write_measured(args, folder, "large/64", {"copy": 0.97}, *measured)
        args["models"]["copy"]["proof"] = proof
    args["models"]["copy"]["space_of"] = "large/64"
    args["collections"] = {"docs": {"space": "large/64", "encoders": ["copy"], **docs}}
    router = LocalRouter(parse_args(args))
    await router.start()
    asgi = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
    try:
        async with httpx.AsyncClient(transport=asgi, base_url="http://localhost") as client:
            yield client, router
    finally:
        await router.stop()


@pytest.mark.parametrize(("own", "copy"), [(256, 64), (64, 256)])
@pytest.mark.parametrize("side", ["document", "query"])
@pytest.mark.parametrize("truncate", ["end", "start"])
async def test_a_copy_cuts_no_text_elsewhere_than_the_space_s_own_model(
    tmp_path: Path, own: int, copy: int, side: str, truncate: str
) -> None:
    sizes = {"max_tokens": own}, {"max_tokens": copy}
    body = {"space": "docs", "input_type": side, "truncate": truncate}
    long, longer, short = ("word " * words for words in (100, 400, 20))
    async with with_copy(tmp_path, *sizes) as (client, router):
        for text in (long, longer):
            answer = await embed(client, **body, input=[short, text])
            assert answer["routing"]["model"] == "large"
        away(router, "large")
        for text in (long, longer):
            status, code, message = await refused(client, **body, input=[short, text])
            assert (status, code) == (503, "model_unavailable")
            assert "large: no ready replica" in message
            status, code, message = await refused(client, **body, input=text, model="copy")
            assert (status, code) == (400, "invalid_value")
            assert message.startswith(OTHER_CUT)
        answer = await embed(client, **body, input=short)
        assert (answer["routing"]["model"], answer["routing"]["encoder"]) == ("copy", "same")


async def test_a_copy_of_the_same_length_cuts_as_the_space_s_own_model(tmp_path: Path) -> None:
    body = {"space": "docs", "input_type": "document", "truncate": "end", "input": "word " * 700}
    async with with_copy(tmp_path, {}, {}) as (client, router):
        native = await embed(client, **body)
        away(router, "large")
        answer = await embed(client, **body)
        assert (native["routing"]["model"], answer["routing"]["model"]) == ("large", "copy")
        assert answer["data"] == native["data"]


async def test_a_copy_that_reads_more_reads_whole_what_may_not_be_cut(tmp_path: Path) -> None:
    sizes = {"max_tokens": 64}, {"max_tokens": 256}
    body = {"space": "docs", "input_type": "document", "input": "word " * 100}
    async with with_copy(tmp_path, *sizes) as (client, _):
        assert (await embed(client, **body))["routing"]["model"] == "copy"


@pytest.mark.parametrize("prompt", [READS, "Query: {text}"])
@pytest.mark.parametrize("by", ["request", "collection"])
@pytest.mark.parametrize("measured", [None, "find a law"])
async def test_a_proof_of_another_precision_holds_for_its_instruction_alone(
    tmp_path: Path, prompt: str, by: str, measured: str | None
) -> None:
    own = {"prompts": {"query": READS, "instruction": "find it"}}
    copy = {"prompts": {"query": prompt, "instruction": "find it" if prompt == READS else ""}}
    other = "find a proof"
    docs = {"instruction": other} if by == "collection" else {}
    body = {**QUERY, **({"instruction": other} if by == "request" else {})}
    async with with_copy(tmp_path, own, copy, (measured,), **docs) as (client, router):
        assert (await embed(client, **body))["routing"]["model"] == "large"
        status, code, message = await refused(client, **body, model="copy")
        assert (status, code) == (400, "invalid_value")
        assert message.startswith(OTHER_PROOF)
        away(router, "large")
        status, code, message = await refused(client, **body)
        assert (status, code) == (503, "model_unavailable")
        assert OTHER_PROOF.replace("copy ", "copy: ") in message
        if measured is not None:
            right = {**body, "instruction": measured}
            assert (await embed(client, **right))["routing"]["model"] == "copy"
        elif by == "request":
            assert (await embed(client, **QUERY))["routing"]["model"] == "copy"


async def test_an_instruction_that_no_model_reads_changes_nothing(tmp_path: Path) -> None:
    async with with_copy(tmp_path, {}, {}, ("find a law",)) as (client, router):
        away(router, "large")
        answer = await embed(client, **QUERY, instruction="find a proof")
        assert answer["routing"]["model"] == "copy"


async def test_a_cut_text_of_which_a_student_reads_nothing_goes_to_another_encoder(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (client, _):
        text = "\N{ZEBRA FACE} " * 600 + "text"
        body = {**QUERY, "truncate": "end", "input": ["some text", text], "latency_budget_ms": 50}
        answer = await embed(client, **body)
        assert answer["routing"]["model"] == "large"
        status, code, message = await refused(client, **body, model="tiny")
        assert (status, code) == (400, "invalid_value")
        assert message.startswith("input[1]: tiny reads nothing of it")
