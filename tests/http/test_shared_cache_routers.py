"""Routers that answer from what another one wrote into a real Redis."""

import asyncio
import threading
from typing import Any

import httpx
import pytest
from redis import Redis

from deployments.service.shared_cache import FAILURES
from router.keys import hash_of, new_key
from tests.support import redis_server
from tests.support.launched import ROOT
from tests.support.local_service import FAKE, WORDLLAMA, served
from tests.support.redis_server import ALWAYS_S, RedisServer, needs_redis

pytestmark = needs_redis


server = redis_server.server


KEYS = {"one": new_key(bytes([1]) * 32), "other": new_key(bytes([2]) * 32)}
ARGS: dict[str, Any] = {
    "models": {
        "wordllama-256": WORDLLAMA
        | {"fingerprint": str(ROOT / "configs" / "fingerprints" / "wordllama-256.json")},
        "all-minilm-l6-v2": FAKE,
    },
    "tiers": {"fast": "wordllama-256", "best": "all-minilm-l6-v2"},
}


def with_redis(url: str, **more: Any) -> dict[str, Any]:
    return ARGS | {"cache": {"redis_url": url, "redis_timeout_s": ALWAYS_S, **more}}


def embed(
    url: str, texts: list[str], model: str = "fast", key: str | None = None
) -> dict[str, Any]:
    headers = {} if key is None else {"authorization": f"Bearer {KEYS[key]}"}
    json = {"input": texts, "model": model}
    answer = httpx.post(f"{url}/v1/embeddings", json=json, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.models
def test_a_second_router_answers_what_the_first_has_seen_without_its_engine(
    server: RedisServer,
) -> None:
    texts = ["a shared sentence", "another", "a shared sentence"]
    with served(with_redis(server.url)) as (first, one):
        fresh = embed(first, texts)
        asyncio.run_coroutine_threadsafe(one.service.shared.settled(), one.loop).result(60)  # type: ignore[union-attr]
    with served(with_redis(server.url)) as (second, router):
        known = embed(second, [*texts, "new"])
        assert known["routing"]["cached"] == 3
        assert known["data"][:3] == fresh["data"]
        again = embed(second, texts)  # from its own memory now
        assert again["data"] == fresh["data"]
        assert router.service.shared is not None
        assert router.service.shared.counters.hits == 2
        assert known["usage"]["prompt_tokens"] > fresh["usage"]["prompt_tokens"]
    without = ARGS | {"cache": {"max_bytes": 0}}
    with served(without) as (third, _):
        assert embed(third, texts)["data"] == fresh["data"]


@pytest.mark.models
@pytest.mark.parametrize(
    ("scope", "other_finds"), [({}, 0), ({"scope": "key"}, 0), ({"scope": "shared"}, 2)], ids=str
)
def test_another_key_finds_in_redis_what_the_scope_says(
    server: RedisServer, scope: dict[str, str], other_finds: int
) -> None:
    texts = ["a secret", "another secret"]
    keys = {name: {"hash": hash_of(key)} for name, key in KEYS.items()}
    args = with_redis(server.url, **scope) | {"keys": keys}
    with served(args) as (first, one):
        fresh = embed(first, texts, key="one")
        asyncio.run_coroutine_threadsafe(one.service.shared.settled(), one.loop).result(60)  # type: ignore[union-attr]
    for key, found in (("other", other_finds), ("one", 2)):
        with served(args) as (second, router):
            known = embed(second, texts, key=key)
            assert known["data"] == fresh["data"]
            assert known["routing"]["cached"] == found
            assert router.service.shared is not None
            assert router.service.shared.counters.hits == found


@pytest.mark.models
def test_texts_that_redis_turns_out_to_know_do_not_make_a_model_look_faster(
    server: RedisServer,
) -> None:
    """A router plans them as new; their answers say nothing about the model's time."""
    shared = [f"a text that both routers get {number}" for number in range(40)]
    with served(with_redis(server.url)) as (first, one):
        embed(first, shared)
        asyncio.run_coroutine_threadsafe(one.service.shared.settled(), one.loop).result(60)  # type: ignore[union-attr]
    with served(with_redis(server.url)) as (second, router):
        correction = router.service.feedback["wordllama-256"].correction

        def learned(texts: list[str]) -> bool:
            before = correction.bias, correction.margin
            embed(second, texts)
            return (correction.bias, correction.margin) != before

        assert not learned(shared[:20])
        assert not learned([*shared[20:], *(f"new {number}" for number in range(20))])
        assert learned([f"newer {number}" for number in range(20)])
        assert learned([f"newest {number}" for number in range(20)] * 2), "planned once each"
        assert learned([*shared, "another"]), "the router itself knows all but one"


@pytest.mark.models
def test_a_model_without_a_fingerprint_is_not_shared(server: RedisServer) -> None:
    with served(with_redis(server.url)) as (url, _):
        embed(url, ["alone"], "best")
    redis = Redis.from_url(server.url)
    assert redis.keys("*") == []
    redis.close()


@pytest.mark.models
def test_no_request_fails_while_redis_is_killed_and_started(server: RedisServer) -> None:
    with served(with_redis(server.url, redis_timeout_s=0.02)) as (url, router):
        stop = threading.Event()
        answered: list[int] = []

        def ask(who: int) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                texts = [f"text {who} {number}", "the same for all", f"text {who} {number}"]
                body = embed(url, texts)
                assert [item["index"] for item in body["data"]] == [0, 1, 2]
                assert body["data"][0]["embedding"] == body["data"][2]["embedding"]
                answered.append(who)

        errors: list[BaseException] = []

        def watched(who: int) -> None:
            try:
                ask(who)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=watched, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for step in (server.pause, server.kill, server.start, lambda: None):
            before = len(answered)
            while len(answered) < before + 20 and not errors:
                stop.wait(0.01)
            step()
        stop.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert router.service.shared is not None
        assert (
            router.service.shared.counters.slow + router.service.shared.counters.failures
            >= FAILURES
        )
