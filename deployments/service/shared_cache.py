"""Vectors that routers share through Redis: exact, bounded in time, and never in the way.

A key contains everything that the vector depends on: the model's name, size and engine settings,
its fingerprint, and the digest of what the model reads. A model without a fingerprint is not
shared: a name and a path do not prove that two routers have the same weights. A value carries a
checksum that includes its key, so that a damaged, truncated or foreign value is a miss.

Redis can be slow, down or full of invalid values. Concurrent look-ups are sent in one MGET. A
request waits at most `redis_timeout_s` for each 32 texts of its own, then goes on without them.
After three failures in a row look-ups pause for a time that doubles up to 30 s; only an answer in
time ends the series. Writes follow the answer and are dropped when too many wait. Everything is
counted.
"""

import asyncio
import hashlib
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson

from router.arrays import Vectors
from router.cache import CachedVector
from router.config import Cache, RouterArgs
from router.fingerprint import ModelProof
from router.strict import ConfigError

VERSION = b"er1:"
FAILURES = 3  # in a row, until look-ups pause
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
BATCH_KEYS = 256  # of one MGET, and of one pipeline of SETs
BOX_TEXTS = 32
WAITING_BYTES = 64 * 1024 * 1024  # of writes
COMMAND_S = 2.0  # after which a connection is given up
_HEAD = struct.Struct("<8sI")  # checksum, tokens

log = logging.getLogger("ray.serve")


class Client(Protocol):
    """The operations that are needed of Redis."""

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]: ...

    async def put(self, values: Mapping[bytes, bytes], ttl_s: float) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class SharedCacheCounters:
    """Counters of the shared cache, in texts; `failures` and `slow` in look-ups and pipelines."""

    hits: int = 0
    misses: int = 0
    skipped: int = 0  # not looked up, because Redis had failed before
    slow: int = 0  # look-ups that timed out
    failures: int = 0
    invalid: int = 0  # values that are no vector of this model
    written: int = 0
    dropped: int = 0  # not written: too many waited, or Redis failed


class _Lookup(NamedTuple):
    keys: list[bytes]
    future: "asyncio.Future[Sequence[bytes | None]]"


class SharedCache:
    """One router's side of the cache in Redis; `identities` are the models that are shared, see
    `identities_of`.
    """

    def __init__(
        self,
        client: Client,
        identities: Mapping[str, bytes],
        dimensions: Mapping[str, int],
        config: Cache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = SharedCacheCounters()
        self._client, self._identities, self._dimensions, self._clock = (
            client,
            identities,
            dimensions,
            clock,
        )
        self._timeout_s, self._ttl_s = config.redis_timeout_s, config.redis_ttl_s
        self._queued: deque[_Lookup] = deque()
        self._to_write: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._reading: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failures, self.paused_until_s = 0, 0.0
        self._under_way: list[_Lookup] = []  # look-ups of the MGET that runs
        self._late = False  # it took longer than one of them waited

    def shares(self, model: str) -> bool:
        """Whether vectors of this model are shared."""
        return model in self._identities

    @property
    def paused(self) -> bool:
        """Whether Redis failed so often that it is not used now."""
        return self._clock() < self.paused_until_s

    async def get_many(self, model: str, digests: Sequence[bytes]) -> list[CachedVector | None]:
        """The entry of each digest, None where Redis has none or did not answer in time; never
        raises.
        """
        if self.paused:
            self.counters.skipped += len(digests)
            return [None] * len(digests)
        keys = [self._identities[model] + digest for digest in digests]
        ask = _Lookup(keys, asyncio.get_running_loop().create_future())
        self._queued.append(ask)
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.wait((ask.future,), timeout=self._timeout_s * -(-len(keys) // BOX_TEXTS))
        if not ask.future.done():
            ask.future.cancel()
            self.counters.slow += 1
            # a late MGET counts once
            if not (self._late and any(one is ask for one in self._under_way)):
                self._late = True
                self._failed(f"no answer within {self._timeout_s * 1000:g} ms")
            return [None] * len(digests)
        if ask.future.cancelled():  # the cache is being closed
            return [None] * len(digests)
        found = [
            None if value is None else self._unpack(model, key, value)
            for key, value in zip(keys, ask.future.result(), strict=True)
        ]
        self.counters.misses += (missed := found.count(None))
        self.counters.hits += len(found) - missed
        return found

    def put_many(
        self, model: str, digests: Sequence[bytes], vectors: Vectors, tokens: Sequence[int]
    ) -> None:
        """Queue entries to write after the answer; returns at once."""
        if self.paused:
            self.counters.dropped += len(digests)
            return
        identity = self._identities[model]
        for digest, vector, count in zip(digests, vectors, tokens, strict=True):
            key = identity + digest
            if key in self._to_write:
                continue
            value = pack(key, vector, count)
            if self._waiting_bytes + len(value) > WAITING_BYTES:
                self.counters.dropped += 1
                continue
            self._to_write[key] = value
            self._waiting_bytes += len(value)
        if self._writing is None and self._to_write:
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def settled(self) -> None:
        """Wait until nothing is read or written."""
        while tasks := [task for task in (self._reading, self._writing) if task is not None]:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Cancel running commands and close the connections."""
        for task in (self._reading, self._writing):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        await self._client.close()

    async def _read(self) -> None:
        try:
            while self._queued:
                asks, keys = [], list[bytes]()
                while self._queued and (
                    not keys or len(keys) + len(self._queued[0].keys) <= BATCH_KEYS
                ):
                    ask = self._queued.popleft()
                    if not ask.future.done():
                        asks.append(ask)
                        keys += ask.keys
                if not keys:
                    continue
                values: Sequence[bytes | None] = [None] * len(keys)
                self._under_way, self._late = asks, False
                try:
                    async with asyncio.timeout(COMMAND_S):
                        found = await self._client.get(keys)
                    if len(found) != len(keys):
                        raise ValueError(f"{len(found)} values for {len(keys)} keys")
                    values = found
                except Exception as error:  # any error of a client library for a broken server
                    self._broke(error)
                else:
                    if not self._late:
                        self._worked()
                start = 0
                for ask in asks:
                    if not ask.future.done():
                        ask.future.set_result(values[start : start + len(ask.keys)])
                    start += len(ask.keys)
        finally:
            self._reading = None
            for ask in self._queued:
                ask.future.cancel()
            self._queued.clear()

    async def _write(self) -> None:
        try:
            while self._to_write:
                batch = dict(islice(self._to_write.items(), BATCH_KEYS))
                try:
                    async with asyncio.timeout(COMMAND_S):
                        await self._client.put(batch, self._ttl_s)
                except Exception as error:
                    self.counters.dropped += len(self._to_write)
                    self._to_write.clear()
                    self._waiting_bytes = 0
                    self._broke(error)
                else:
                    self.counters.written += len(batch)
                    for key, value in batch.items():
                        del self._to_write[key]
                        self._waiting_bytes -= len(value)
        finally:
            self._writing = None

    def _unpack(self, model: str, key: bytes, value: bytes) -> CachedVector | None:
        entry = unpack(key, value, self._dimensions[model])
        if entry is None:
            self.counters.invalid += 1
        return entry

    def _broke(self, error: Exception) -> None:
        self.counters.failures += 1
        self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._failures >= FAILURES and not self.paused:
            pause_s = min(PAUSE_S * 2 ** min(self._failures - FAILURES, 10), LONGEST_PAUSE_S)
            self.paused_until_s = self._clock() + pause_s
            if self._failures == FAILURES:
                log.warning("the shared cache is left out until Redis answers again: %s", why)

    def _worked(self) -> None:
        if self._failures >= FAILURES:
            log.warning("the shared cache answers again")
        self._failures, self.paused_until_s = 0, 0.0


def pack(key: bytes, vector: Vectors, tokens: int) -> bytes:
    """One value: a checksum over the rest and the key, the tokens, little-endian float32."""
    body = struct.pack("<I", tokens) + np.ascontiguousarray(vector, "<f4").tobytes()
    return _checksum(key, body) + body


def unpack(key: bytes, value: bytes, dimensions: int) -> CachedVector | None:
    """The entry that was packed under this key; None for anything else."""
    if not isinstance(value, bytes) or len(value) != _HEAD.size + 4 * dimensions:
        return None
    checksum, tokens = _HEAD.unpack_from(value)
    if checksum != _checksum(key, value[8:]):
        return None
    return CachedVector(np.frombuffer(value, "<f4", dimensions, _HEAD.size), tokens)


def _checksum(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(
        body, digest_size=8, key=hashlib.blake2b(key, digest_size=16).digest()
    ).digest()


def identities_of(args: RouterArgs, fingerprints: Mapping[str, ModelProof]) -> dict[str, bytes]:
    """The key prefix, before the digest, of each model that can be shared."""
    found = {}
    for name, fingerprint in fingerprints.items():
        model = args.models[name]
        settings = orjson.dumps(
            (name, model.dimensions, model.engine.model_dump(mode="json"), fingerprint.digest),
            option=orjson.OPT_SORT_KEYS,
        )
        found[name] = VERSION + hashlib.blake2b(settings, digest_size=16).digest()
    return found


def open_shared(args: RouterArgs, fingerprints: Mapping[str, ModelProof]) -> SharedCache | None:
    """The cache of `cache.redis_url`, not yet connected; None without a URL. Raises ConfigError if
    it cannot be created.
    """
    url = args.cache.redis_url
    if url is None:
        return None
    if url.startswith("env:"):
        name = url.removeprefix("env:")
        if not (url := os.environ.get(name, "")):
            raise ConfigError(
                [f"cache.redis_url: the environment variable {name} is not set for the router"]
            )
    identities = identities_of(args, fingerprints)
    if not identities:
        raise ConfigError(
            [
                "cache.redis_url: no model has a fingerprint, so nothing may be shared; make one "
                "with `embedding-router fingerprint`"
            ]
        )
    if alone := sorted(set(args.deployed) - set(identities)):
        log.warning(
            "the shared cache leaves out models without a fingerprint: %s", ", ".join(alone)
        )
    try:
        client = RedisClient(url)
    except ImportError:
        raise ConfigError(["cache.redis_url: redis is not installed: pip install redis"]) from None
    except ValueError as error:
        raise ConfigError([f"cache.redis_url: {error}"]) from None
    return SharedCache(
        client, identities, {name: args.models[name].dimensions for name in identities}, args.cache
    )


class RedisClient:
    """Redis with redis-py; connects on the first command, and again after a failure."""

    def __init__(self, url: str) -> None:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._redis: Any = Redis.from_url(
            url,
            socket_connect_timeout=COMMAND_S,
            decode_responses=False,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
        )

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The value of each key."""
        values: list[bytes | None] = await self._redis.mget(keys)
        return values

    async def put(self, values: Mapping[bytes, bytes], ttl_s: float) -> None:
        """Set all of them, each for `ttl_s`."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                pipeline.set(key, value, px=max(1, round(ttl_s * 1000)))
            await pipeline.execute()

    async def close(self) -> None:
        """Close every connection."""
        await self._redis.aclose()
