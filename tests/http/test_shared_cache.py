"""Routers that share vectors through a real Redis: exact, never another model's, and never in the
way.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from redis import Redis

from deployments.service.shared_cache import (
    FAILURES,
    RedisClient,
    SharedCache,
    identities_of,
    open_shared,
    pack,
    unpack,
)
from router.cache import CachedVector
from router.config import Cache, RouterArgs
from router.fingerprint import Fingerprint, Probe
from router.strict import ConfigError, parse_args
from tests.support import redis_server
from tests.support.local_service import FAKE
from tests.support.redis_server import ALWAYS_S, RedisServer, needs_redis

pytestmark = needs_redis

WIDTH = 16
IDENTITY = b"er1:identity-of-m"


server = redis_server.server


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(
        self, url: str, timeout_s: float = ALWAYS_S, ttl_s: float = 60.0, identity: bytes = IDENTITY
    ) -> None:
        self.clock = Clock()
        config = Cache(redis_url=url, redis_timeout_s=timeout_s, redis_ttl_s=ttl_s)
        self.client = RedisClient(url)
        self.cache = SharedCache(self.client, {"m": identity}, {"m": WIDTH}, config, self.clock)

    async def put(self, *names: int) -> None:
        self.cache.put_many(
            "m", list(map(digest, names)), np.stack([vector(name) for name in names]), list(names)
        )
        await self.cache.settled()

    async def get(self, *names: int) -> list[CachedVector | None]:
        return await self.cache.get_many("m", list(map(digest, names)))


def digest(name: int) -> bytes:
    return name.to_bytes(16, "big")


def vector(name: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(name).standard_normal(WIDTH, np.float32)


@pytest.fixture
async def bench(server: RedisServer) -> AsyncIterator[Bench]:
    made = Bench(server.url)
    yield made
    await made.cache.close()


async def test_what_one_router_wrote_another_reads_bit_by_bit(
    server: RedisServer, bench: Bench
) -> None:
    await bench.put(1, 2, 3)
    other = Bench(server.url)
    found = await other.get(3, 9, 1)
    assert found[1] is None
    for entry, name in ((found[0], 3), (found[2], 1)):
        assert entry is not None
        assert entry.tokens == name
        np.testing.assert_array_equal(entry.vector, vector(name))
    assert (other.cache.counters.hits, other.cache.counters.misses) == (2, 1)
    await other.cache.close()


async def test_another_models_vectors_are_never_found(server: RedisServer, bench: Bench) -> None:
    await bench.put(1)
    other = Bench(server.url, identity=b"er1:identity-of-n")
    assert await other.get(1) == [None]
    await other.cache.close()


async def test_lookups_that_wait_together_are_one_command(
    server: RedisServer, bench: Bench
) -> None:
    await bench.put(*range(40))
    await bench.get(0)  # connected
    redis = Redis.from_url(server.url)
    redis.config_resetstat()
    found = await asyncio.gather(*(bench.get(name) for name in range(40)))
    assert all(entry is not None and entry.tokens == name for name, (entry,) in enumerate(found))
    commands = redis.info("commandstats")
    assert commands["cmdstat_mget"]["calls"] == 1
    redis.close()


async def test_everything_that_is_written_ends(server: RedisServer, bench: Bench) -> None:
    await bench.put(1, 2)
    redis = Redis.from_url(server.url)
    keys = redis.keys("*")
    assert len(keys) == 2
    assert all(0 < redis.pttl(key) <= 60_000 for key in keys)
    redis.close()


async def test_garbage_in_redis_is_a_miss_and_counted(server: RedisServer, bench: Bench) -> None:
    await bench.put(1, 2, 3, 4, 5, 6)
    redis = Redis.from_url(server.url)
    keys = [IDENTITY + digest(name) for name in range(1, 7)]
    whole = redis.get(keys[0])
    assert isinstance(whole, bytes)
    redis.set(keys[0], b"")
    redis.set(keys[1], whole[:-4])  # a vector of one dimension less
    redis.set(keys[2], whole[:12] + bytes(4 * WIDTH))  # the right length, other numbers
    redis.set(keys[3], whole)  # another text's
    redis.delete(keys[4])
    redis.lpush(keys[4], b"a list")  # not even a string
    found = await bench.get(1, 2, 3, 4, 5, 6)
    assert found[:5] == [None] * 5
    assert found[5] is not None
    assert bench.cache.counters.invalid == 4
    redis.close()


async def test_a_redis_that_hangs_is_not_waited_for_and_soon_not_asked(server: RedisServer) -> None:
    bench = Bench(server.url, timeout_s=0.01)
    await bench.client.get([b"a"])  # connected
    server.pause()
    for _ in range(FAILURES):
        assert await bench.get(1) == [None]
    counters = bench.cache.counters
    assert counters.slow == FAILURES
    assert bench.cache.paused
    assert await bench.get(1, 2) == [None, None]
    bench.cache.put_many("m", [digest(1)], vector(1)[None], [1])
    assert (counters.slow, counters.skipped, counters.dropped) == (FAILURES, 2, 1)
    server.go_on()
    await bench.cache.close()


class Slow:
    """A Redis whose every answer comes when nobody waits for it any longer."""

    def __init__(self) -> None:
        self.asked, self.answer = 0, asyncio.Event()

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        self.asked += 1
        await self.answer.wait()
        return [None] * len(keys)

    async def put(self, values: Mapping[bytes, bytes], ttl_s: float) -> None:
        raise AssertionError("nothing is written here")

    async def close(self) -> None:
        pass


async def test_a_redis_that_is_always_late_is_left_alone_and_said_to_be_away_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis, clock = Slow(), Clock()
    cache = SharedCache(
        redis,
        {"m": IDENTITY},
        {"m": WIDTH},
        Cache(redis_url="redis://x", redis_timeout_s=0.005),
        clock,
    )
    for late in range(1, FAILURES + 3):
        redis.answer = asyncio.Event()
        waiting = [asyncio.create_task(cache.get_many("m", [digest(name)])) for name in range(5)]
        assert await asyncio.gather(*waiting) == [[None]] * 5
        assert redis.asked == late
        assert cache.paused == (late >= FAILURES), (
            "one late answer is one failure, whoever waited for it"
        )
        redis.answer.set()
        await cache.settled()
        assert cache.paused == (late >= FAILURES), "an answer that came too late proves nothing"
        clock.now += 60.0
    assert [
        record.getMessage() for record in caplog.records if "shared cache" in record.getMessage()
    ] == ["the shared cache is left out until Redis answers again: no answer within 5 ms"]
    await cache.close()


async def test_a_redis_that_dies_and_comes_back_is_used_again(
    server: RedisServer, bench: Bench
) -> None:
    await bench.put(1)
    server.kill()
    for _ in range(FAILURES):
        assert await bench.get(1) == [None]
    assert bench.cache.paused
    assert bench.cache.counters.failures == FAILURES
    server.start()
    assert await bench.get(1) == [None]  # not asked yet
    bench.clock.now += 3600
    await bench.put(2)
    (entry,) = await bench.get(2)
    assert entry is not None
    assert not bench.cache.paused


async def test_what_cannot_be_written_is_dropped_and_counted_and_later_writes_arrive(
    server: RedisServer, bench: Bench
) -> None:
    server.kill()
    await bench.put(1, 2)
    counters = bench.cache.counters
    assert (counters.failures, counters.dropped, counters.written) == (1, 2, 0)
    server.start()
    await bench.put(3)
    assert [entry is not None for entry in await bench.get(1, 2, 3)] == [False, False, True]
    assert (counters.dropped, counters.written) == (2, 1)


async def test_each_failure_after_a_pause_makes_the_next_one_longer(
    server: RedisServer, bench: Bench
) -> None:
    server.kill()
    pauses = []
    for _ in range(12):
        while not bench.cache.paused:
            await bench.get(1)
        pauses.append(bench.cache.paused_until_s - bench.clock.now)
        bench.clock.now = bench.cache.paused_until_s
    assert pauses[:3] == pytest.approx([0.5, 1.0, 2.0])
    assert pauses[-1] == 30.0


def test_a_value_survives_only_under_its_own_key_and_size() -> None:
    value = pack(b"key", vector(1), 7)
    entry = unpack(b"key", value, WIDTH)
    assert entry is not None
    assert entry.tokens == 7
    assert unpack(b"kez", value, WIDTH) is None
    assert unpack(b"key", value, WIDTH - 1) is None
    for place in range(len(value)):
        broken = bytearray(value)
        broken[place] ^= 1
        assert unpack(b"key", bytes(broken), WIDTH) is None


def test_whatever_a_vector_depends_on_is_in_its_key() -> None:
    def identity(fingerprint: Fingerprint, **model: Any) -> bytes:
        args = RouterArgs.model_validate(
            {
                "models": {
                    "m": {"engine": {"kind": "fake"}, "dimensions": 4, "max_tokens": 9, **model}
                },
                "tiers": {"fast": "m"},
            }
        )
        return identities_of(args, {"m": fingerprint})["m"]

    probes = (Probe("a", "query", None, "a"),)
    proof = Fingerprint("m", probes, np.eye(1, 4, dtype=np.float32))
    first = identity(proof)
    assert identity(proof) == first
    others = {
        identity(Fingerprint("m", probes, -np.eye(1, 4, dtype=np.float32))),
        identity(proof, engine={"kind": "fake", "seed": 1}),
        identity(proof, dimensions=5),
    }
    assert first not in others
    assert len(others) == 3


def test_a_cache_that_cannot_be_shared_is_said_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nameless = parse_args(
        {"models": {"m": FAKE}, "tiers": {"fast": "m"}, "cache": {"redis_url": "redis://localhost"}}
    )
    with pytest.raises(ConfigError, match="no model has a fingerprint"):
        open_shared(nameless, {})
    by_name = nameless.model_copy(update={"cache": Cache(redis_url="env:NO_SUCH_REDIS")})
    monkeypatch.delenv("NO_SUCH_REDIS", raising=False)
    with pytest.raises(ConfigError, match="NO_SUCH_REDIS is not set"):
        open_shared(by_name, {})
