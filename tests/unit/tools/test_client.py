"""The command line tools' client: a router that is away is waited for, one that was never there is
not.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.tools import client
from deployments.tools.client import RequestRefused, RouterAway, ServiceClient
from deployments.tools.corpus import Text
from deployments.tools.migrate import Manifest, MigrationError, fill, opened

URL = "http://127.0.0.1:9"
TIERS: dict[str, Any] = {"data": [], "tiers": {}}


class Replies(httpx.AsyncBaseTransport):
    """Answers from a list; an exception in it is raised, and what comes last stays."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self._replies: Iterator[httpx.Response | Exception] = iter(replies)
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        reply = next(self._replies)
        if isinstance(reply, Exception):
            raise reply
        return reply


REFUSED = httpx.ConnectError("Connection refused")
BUSY = httpx.Response(503, json={"error": {"message": "busy"}}, headers={"retry-after": "7"})
FINE = httpx.Response(200, json=TIERS)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LONGEST_WAIT_S", 0.0)


async def tiers(
    replies: Replies, times: int = 1, has_answered: bool = False
) -> list[dict[str, Any]]:
    async with ServiceClient(URL, transport=replies, has_answered=has_answered) as asking:
        return [await asking.tiers() for _ in range(times)]


def test_where_nobody_ever_answered_it_is_said_at_once_and_what_to_do() -> None:
    replies = Replies(REFUSED)
    with pytest.raises(RouterAway) as away:
        asyncio.run(tiers(replies))
    assert str(away.value) == (
        f"no router answers at {URL} (Connection refused); start one with `embedding-router "
        "run`, or name another with --base-url"
    )
    assert replies.asked == 1


@pytest.mark.parametrize("first", [FINE, BUSY], ids=["ready", "busy"])
def test_a_router_that_answered_once_is_waited_for_and_that_is_said_once(
    first: httpx.Response, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = Replies(first, REFUSED, REFUSED, BUSY, FINE)
    assert asyncio.run(tiers(replies, times=1 if first is BUSY else 2))[-1] == TIERS
    assert replies.asked == 5
    assert (
        capsys.readouterr().err
        == f"\n{URL} does not answer (ConnectError: Connection refused); trying for up to 10 min\n"
    )


def test_a_router_that_answered_an_earlier_client_is_waited_for() -> None:
    assert asyncio.run(tiers(Replies(REFUSED, FINE), has_answered=True)) == [TIERS]


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 0.1)
    with pytest.raises(RouterAway, match="the last was: busy"):
        asyncio.run(tiers(Replies(BUSY)))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (httpx.Response(404, text="<html>"), f"{URL}/v1/tiers answered 404; is a router there?"),
        (
            httpx.Response(200, text="<html>"),
            f"{URL}/v1/tiers did not answer JSON; is a router there?",
        ),
        (
            httpx.Response(401, json={"error": {"message": "the API key is missing"}}),
            "the API key is missing",
        ),
    ],
    ids=["no such page", "a page", "a router's own words"],
)
def test_what_is_no_router_is_asked_once(reply: httpx.Response, said: str) -> None:
    replies = Replies(reply)
    with pytest.raises(RequestRefused) as refused:
        asyncio.run(tiers(replies))
    assert str(refused.value) == said
    assert replies.asked == 1


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (403, 1), (400, 4), (413, 4)])
def test_only_what_is_refused_for_its_texts_is_taken_apart(
    status: int, asked: int, tmp_path: Path
) -> None:
    requests = list[httpx.Request]()

    def refuse(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status, json={"error": {"message": "no"}})

    async def filled() -> None:
        texts = [Text(f"id {row}", "a text") for row in range(8)]
        with opened(tmp_path / "out", Manifest("new/64", None, "", "text", None, 8, 8)) as parts:
            async with ServiceClient(
                URL, transport=httpx.MockTransport(refuse), has_answered=True
            ) as asking:
                await fill(
                    parts,
                    iter(texts),
                    asking,
                    {"space": "new/64", "truncate": "end"},
                    8,
                    1,
                    lambda done: None,
                )

    with pytest.raises(RequestRefused if asked == 1 else MigrationError) as refused:
        asyncio.run(filled())
    assert len(requests) == asked  # 8, 4, 2 and 1 texts
    said = str(refused.value)
    assert (
        said == "no"
        if asked == 1
        else said.startswith("text 'id 0' cannot be embedded: no. Fix it, or take it out")
    )


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_plain_server_must_answer_a_vector_for_each_text(rows: int) -> None:
    data = [{"index": row, "embedding": [1.0, 0.0]} for row in range(rows)]

    async def embedded() -> None:
        async with ServiceClient(
            URL, transport=Replies(httpx.Response(200, json={"data": data}))
        ) as one:
            await one.embed_plain(["a", "b"], "any")

    with pytest.raises(RequestRefused, match=f"answered {rows} embeddings for 2 texts"):
        asyncio.run(embedded())


@pytest.mark.parametrize("cached", [0, 2])
def test_a_fresh_client_refuses_vectors_of_a_cache(cached: int) -> None:
    row = {"embedding": "AACAPwAAAAA="}
    routing = {"space": "m/2", "cached": cached}
    body = {"data": [row, row], "routing": routing, "usage": {"prompt_tokens": 4}}

    async def embedded(fresh: bool) -> int:
        replies = Replies(httpx.Response(200, json=body))
        async with ServiceClient(URL, transport=replies, fresh=fresh) as asking:
            return (await asking.embed(["a", "b"], model="m")).cached

    assert asyncio.run(embedded(False)) == cached
    if not cached:
        assert asyncio.run(embedded(True)) == 0
        return
    with pytest.raises(RequestRefused, match=r"2 of 2 texts from its cache.*max_bytes: 0"):
        asyncio.run(embedded(True))
