"""One replica of a model: calls to its engine, and the load that it reports."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.dispatch.wire import Call, Failure, Reply, split_ids
from deployments.engines.base import (
    Batch,
    Embedded,
    Engine,
    EngineDead,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineUnreachable,
    InvalidText,
    ServerUnreachable,
    TextTooLong,
    Times,
)
from deployments.replica.health import EngineHealth
from deployments.replica.identity import Identity, WrongModel
from deployments.telemetry import metrics
from deployments.telemetry.logs import REQUEST_IDS, where
from deployments.telemetry.metrics import ProcessMetrics
from deployments.telemetry.tracing import Tracing
from router.arrays import Vectors
from router.domain import Curve
from router.steps import ReplicaCounters

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # until an engine that cannot be reached is tried again

STILL_S = 60.0

log = logging.getLogger("ray.serve")


async def start_when_reachable(
    engine: Engine, model: str, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Start an engine.

    While what it calls cannot be reached, the start is retried forever at growing intervals.
    """
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return await engine.start()
        except EngineUnreachable as error:
            log.warning("%s cannot start: %s; it is tried again in %g s", model, error, wait_s)
        await sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


async def log_progress(
    model: str, engine: object, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Log once a minute what a starting engine is doing."""
    began = time.monotonic()
    while True:
        await sleep(STILL_S)
        doing = getattr(getattr(engine, "start_log", None), "doing", "loading")
        log.info("%s still starts after %.0f s: %s", model, time.monotonic() - began, doing)


class Host:
    """One started engine and its state.

    It does not use Ray, so that tests can run it in their own process.
    """

    def __init__(
        self,
        engine: Engine,
        replica: str,
        identity: Identity | None = None,
        health_timeout_s: float = 20.0,
        curve: Curve | None = None,
        attention_tokens: int | None = None,
        leave: Callable[[int], object] | None = None,
    ) -> None:
        """Host `engine`; EngineHealth has the last four."""
        self._health = EngineHealth(engine, health_timeout_s, curve, attention_tokens, leave)
        self.start_phases: dict[str, float] = {}  # seconds of each part of the start
        self._engine, self._replica, self.identity = engine, replica, identity
        # A row of one number is a score: scaled to length 1 it would always be 1 or -1.
        scores = getattr(engine, "scores", False)
        self._valid = _finite if scores else _unit_length
        self._invalid = (
            "the engine made a score that is not finite"
            if scores
            else "the engine made a vector that is not of length 1"
        )
        self._outstanding_tokens = self._served_tokens = self._calls = 0
        self._busy_s, self._busy_since_s = 0.0, 0.0
        self._stopped = False
        self._tracing: Tracing | None = None
        self._failures: Counter[str] = Counter()  # texts, by the code of their failure

    async def embed(self, call: Call, to: str | None = None) -> Reply:
        """Embed the texts of one call.

        `to` is used only by the request router (deployments/dispatch/request_router.py).

        Texts whose time is over are dropped here and reported as expired. A cancelled call leaves
        the engine at once. Raises EngineDead when the engine is gone or hangs: the caller retries
        elsewhere and Serve replaces this replica.
        """
        self._health.require_alive()
        arrived, caller = time.monotonic(), asyncio.current_task()
        assert caller is not None
        REQUEST_IDS.set(call.request_ids)
        tokens = int(call.lengths.sum())
        with self._running(call, caller, tokens, arrived):
            try:
                return await self._embed(call, tokens, arrived)
            except asyncio.CancelledError:
                if self._health.dead is None:
                    raise
                caller.uncancel()  # the health check gave up the engine
                raise EngineDead(self._health.dead) from None
            except EngineDead as error:
                if self._health.dead is None and not self._stopped:
                    self._health.die(str(error))
                    log.error("%s; this replica answers no more\n%s", error, where(error))
                # Serve logs errors that leave here with their causes, which can quote a text
                raise error from None
            except EngineOverloaded as error:
                raise error from None
            except EngineError as error:
                if self.identity is not None:
                    self.identity.doubt()
                raise self._failed(error) from None
            except Exception as error:
                raise self._failed(error) from None

    @contextmanager
    def _running(
        self, call: Call, caller: asyncio.Task[Any], tokens: int, arrived: float
    ) -> Iterator[None]:
        """Count a call while the block runs."""
        span = (
            None
            if self._tracing is None
            else self._tracing.serving(call.traceparent, len(call.lengths), tokens)
        )
        self._outstanding_tokens += tokens
        if not self._calls:
            self._busy_since_s = arrived
        self._calls += 1
        try:
            with self._health.calling(caller, int(call.lengths.max(initial=0))):
                yield
        finally:
            if span is not None:
                span.end()
            self._outstanding_tokens -= tokens
            self._calls -= 1
            if not self._calls:
                self._busy_s += time.monotonic() - self._busy_since_s

    async def _embed(self, call: Call, tokens: int, arrived: float) -> Reply:
        """Embed the texts that have not expired."""
        failed = {
            row: Failure("expired", "its deadline passed before it was embedded")
            for row, left_s in enumerate(call.expires_in_s)
            if left_s is not None and left_s <= 0
        }
        keep = [row for row in range(len(call.lengths)) if row not in failed]
        if not keep:
            return self._reply(call, None, keep, failed, 0.0, 0.0, tokens)
        ids = split_ids(call.ids, call.lengths) if call.ids is not None else None
        batch = Batch(
            ids=[ids[row] for row in keep] if ids is not None else None,
            texts=[call.texts[row] for row in keep] if call.texts is not None else None,
            input_type=call.input_type,
        )
        if self.identity is not None:
            await self.identity.certain()
        started = time.monotonic()
        embedded = await self._engine.embed(batch)
        ended = time.monotonic()
        self._health.require_alive()  # it can be disproved meanwhile
        for index, error in embedded.failed.items():
            failed[keep[index]] = _failure(error)
        for index in np.flatnonzero(~self._valid(embedded.vectors)):
            failed.setdefault(keep[index], Failure("engine", self._invalid))
        self._served_tokens += int(call.lengths[keep].sum())
        await asyncio.sleep(0)  # the other calls of this step are counted before the first reply
        queue_s = started - arrived + embedded.waited_s
        took_s = ended - arrived - queue_s
        reply = self._reply(call, embedded, keep, failed, queue_s, took_s, tokens)
        if not call.stamped:
            return reply
        times = embedded.times or Times(started, started + embedded.waited_s, ended)
        return reply._replace(stamps=_stamps(arrived, times))

    def _failed(self, error: Exception) -> EngineFailed:
        log.error("the engine failed on a call:\n%s", where(error))
        detail = (
            str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        )
        away = isinstance(error, EngineUnreachable) and not error.reached
        kind = ServerUnreachable if away else EngineFailed
        return kind(
            f"the engine failed with {type(error).__name__}; this replica's log has the lines of "
            "code",
            detail,
        )

    def _reply(
        self,
        call: Call,
        embedded: Embedded | None,
        keep: list[int],
        failed: dict[int, Failure],
        queue_s: float,
        inference_s: float,
        own_tokens: int = 0,
    ) -> Reply:
        rows, width = len(call.lengths), self._engine.dimensions
        if embedded is not None and len(keep) == rows:
            vectors, tokens = embedded.vectors, embedded.tokens
        else:
            vectors, tokens = np.zeros((rows, width), np.float32), [0] * rows
            if embedded is not None:
                vectors[keep] = embedded.vectors
                for row, count in zip(keep, embedded.tokens, strict=True):
                    tokens[row] = count
        for failure in failed.values():
            self._failures[failure.code] += 1
        left = self._outstanding_tokens - own_tokens
        busy_s = self._busy_s + time.monotonic() - self._busy_since_s
        return Reply(
            vectors,
            tokens,
            failed,
            self._replica,
            queue_s,
            inference_s,
            left,
            ReplicaCounters(self._served_tokens, busy_s),
            None if embedded is None else embedded.running_tokens,
        )

    async def wake(self, to: str | None = None) -> None:
        """Do nothing: the call itself starts a first replica."""

    async def check_health(self) -> None:
        """Check the engine's health, and start the proofs that are due.

        Raises as EngineHealth does: Serve then replaces the replica.
        """
        await self._health.check(self._served_tokens)
        if self.identity is not None:
            self.identity.prove_in_time(self._disproved)

    def _disproved(self, error: WrongModel) -> None:
        self._health.die(str(error))

    def sample(self, tally: ProcessMetrics, model: str) -> None:
        """Copy the numbers of this replica into its metrics."""
        labels = (model,)
        busy_s = self._busy_s + (time.monotonic() - self._busy_since_s if self._calls else 0.0)
        tally.set(metrics.ENGINE_TOKENS, labels, self._served_tokens)
        tally.set(metrics.ENGINE_BUSY, labels, busy_s)
        tally.set(metrics.ENGINE_HELD, labels, self._outstanding_tokens)
        for phase, seconds in self.start_phases.items():
            tally.set(metrics.ENGINE_START, (model, phase), seconds)
        for code, count in self._failures.items():
            tally.set(metrics.FAILED_TEXTS, (model, code), count)
        if (identity := self.identity) is not None:
            for result, count in (
                ("passed", identity.passed),
                ("failed", identity.failed),
                ("put_off", identity.put_off),
            ):
                tally.set(metrics.IDENTITY, (model, result), count)

    async def stop(self) -> None:
        """Stop the engine and release what it holds."""
        self._stopped = True
        self._health.stop_probe()
        if self.identity is not None:
            self.identity.stop()
        await self._engine.stop()


def _unit_length(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Return which rows are of length 1, as promised to every caller; NaN is not."""
    squares: Vectors = np.einsum("ij,ij->i", vectors, vectors)
    unit: npt.NDArray[np.bool_] = np.abs(squares - 1.0) < 1e-2
    return unit


def _finite(scores: Vectors) -> npt.NDArray[np.bool_]:
    """Return which rows are finite scores."""
    finite: npt.NDArray[np.bool_] = np.isfinite(scores[:, 0])
    return finite


def _stamps(arrived: float, times: Times) -> tuple[float, ...]:
    """Return the times of a call's stages until now, in seconds since 1970."""
    now = time.monotonic()
    behind_s = time.time() - now
    return tuple(at_s + behind_s for at_s in (arrived, *times, now))


def _failure(error: EngineError) -> Failure:
    if isinstance(error, TextTooLong):
        return Failure("too_long", str(error), error.tokens, error.limit)
    return Failure("invalid" if isinstance(error, InvalidText) else "engine", str(error))
