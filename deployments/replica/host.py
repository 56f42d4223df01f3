"""One replica of a model: its engine's lifetime, admission, health and reported load."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
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
from deployments.replica.identity import Identity, WrongModel
from deployments.telemetry import metrics
from deployments.telemetry.logs import REQUEST_IDS, where
from deployments.telemetry.metrics import Tally
from deployments.telemetry.tracing import Tracing
from router.arrays import Vectors
from router.domain import Curve, attention
from router.steps import Counters

ANSWERED_S = 5.0  # for callers to receive the error that their engine is dead
WRITTEN_S = 0.2  # for a reply to get from here to the socket
CHECKS_FAILED = 3  # in a row, after which Serve replaces the replica
# times its curve: an engine that reads a long text for longer counts as hanging
SLOWER = 4.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0  # until an engine that cannot be reached is tried again

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
        """Host `engine`; `leave` ends the process once the engine is dead.

        It is called after the callers got their errors. The memory of a card is free only then.
        With None, Serve ends the process, which takes three health checks and more.
        """
        self._leave = leave
        self._leaving: asyncio.Task[None] | None = None
        self.start_phases: dict[str, float] = {}  # seconds of each part of the start
        self._idle = asyncio.Event()  # set while no call is in flight
        self._idle.set()
        self._engine, self._replica, self._identity = engine, replica, identity
        # A row of one number is a score: scaled to length 1 it would always be 1 or -1.
        scores = getattr(engine, "scores", False)
        self._valid = _finite if scores else _unit_length
        self._invalid = (
            "the engine made a score that is not finite"
            if scores
            else "the engine made a vector that is not of length 1"
        )
        self._health_timeout_s, self._curve, self._attention_tokens = (
            health_timeout_s,
            curve,
            attention_tokens,
        )
        self._outstanding_tokens = self._served_tokens = self._calls = 0
        self._busy_s, self._busy_since_s = 0.0, 0.0
        # at the last check: tokens served, tokens queued, calls that started or ended
        self._seen = (
            0,
            0,
            0,
        )
        self._changes = 0
        self._probe: asyncio.Task[None] | None = None
        self._probed_s = 0.0  # when it was sent
        # longest time that the engine can take for one text, of those received since its last sign
        # of life
        self._longest_s = 0.0
        self._checks_failed = 0
        self._dead: str | None = None
        self._stopped = False
        self._callers: dict[asyncio.Task[Any], float] = {}  # with their longest text's seconds
        self._tracing: Tracing | None = None
        self._failures: Counter[str] = Counter()  # texts, by the code of their failure

    async def embed(self, call: Call, to: str | None = None) -> Reply:
        """Embed the texts of one call.

        `to` is used only by the request router (deployments/dispatch/request_router.py).

        Texts whose time is over are dropped here and reported as expired. A cancelled call leaves
        the engine at once. Raises EngineDead when the engine is gone or hangs: the caller retries
        elsewhere and Serve replaces this replica.
        """
        if self._dead is not None:
            raise EngineDead(self._dead)
        arrived, caller = time.monotonic(), asyncio.current_task()
        assert caller is not None
        REQUEST_IDS.set(call.request_ids)
        tokens = int(call.lengths.sum())
        with self._running(call, caller, tokens, arrived):
            try:
                return await self._embed(call, tokens, arrived)
            except asyncio.CancelledError:
                if self._dead is None:
                    raise
                caller.uncancel()  # `_give_up` cancelled it
                raise EngineDead(self._dead) from None
            except EngineDead as error:
                if self._dead is None and not self._stopped:
                    self._die(str(error))
                    log.error("%s; this replica answers no more\n%s", error, where(error))
                # Serve logs errors that leave here with their causes, which can quote a text
                raise error from None
            except EngineOverloaded as error:
                raise error from None
            except EngineError as error:
                if self._identity is not None:
                    self._identity.doubt()
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
        self._callers[caller] = longest_s = self._seconds(int(call.lengths.max(initial=0)))
        self._longest_s = max(self._longest_s, longest_s)
        self._outstanding_tokens += tokens
        if not self._calls:
            self._busy_since_s = arrived
            self._idle.clear()
        self._calls += 1
        self._changes += 1
        try:
            yield
        finally:
            if span is not None:
                span.end()
            del self._callers[caller]
            self._outstanding_tokens -= tokens
            self._calls -= 1
            self._changes += 1
            if not self._calls:
                self._idle.set()
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
        if self._identity is not None:
            await self._identity.certain()
        started = time.monotonic()
        embedded = await self._engine.embed(batch)
        ended = time.monotonic()
        if self._dead is not None:  # disproved meanwhile
            raise EngineDead(self._dead)
        for index, error in embedded.failed.items():
            failed[keep[index]] = _failure(error)
        for index in np.flatnonzero(~self._valid(embedded.vectors)):
            failed.setdefault(keep[index], Failure("engine", self._invalid))
        self._served_tokens += tokens
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
            Counters(self._served_tokens, busy_s),
            None if embedded is None else embedded.running_tokens,
        )

    async def wake(self, to: str | None = None) -> None:
        """Do nothing: the call itself starts a first replica."""

    async def check_health(self) -> None:
        """Probe the engine; Serve replaces the replica when this raises three times in a row.

        Progress since the last check is sign enough of life: behind other work the probe could wait
        longer than Serve does. Calls that start and end are no progress: they can all end because
        their callers have left. An unanswered probe goes on until the next check, which then does
        not wait again. The third failed check gives up the engine and sends its calls back to their
        routers. An engine reads a text in one go, which can take minutes for a long one; its probe
        waits that long too.
        """
        if self._dead is not None:
            raise EngineDead(self._dead)
        if self._moved_on():
            self._stop_probe()
            self._longest_s = max(self._callers.values(), default=0.0)
        else:
            await self._ask_engine()
        self._checks_failed = 0
        if self._identity is not None:
            self._identity.prove_in_time(self._disproved)

    def _moved_on(self) -> bool:
        served, queued, changes = now = (
            self._served_tokens,
            self._engine.queued_tokens(),
            self._changes,
        )
        before, self._seen = self._seen, now
        return self._calls > 0 and (
            served > before[0] or (changes == before[2] and queued < before[1])
        )

    async def _ask_engine(self) -> None:
        probe, wait_s = self._probe, 0.0
        if probe is None:
            self._probe = probe = asyncio.ensure_future(self._engine.check_health())
            self._probed_s, wait_s = time.monotonic(), self._health_timeout_s
        await asyncio.wait({probe}, timeout=wait_s)
        if probe.done():
            self._probe = None
            try:
                probe.result()
            except EngineDead as error:
                self._die(str(error))
                raise
            self._longest_s = max(self._callers.values(), default=0.0)
            return
        patience_s = self._health_timeout_s + self._longest_s
        if self._longest_s and time.monotonic() - self._probed_s < patience_s:
            return
        self._checks_failed += 1
        why = f"the engine did not answer a probe within {patience_s:.3g} s"
        if self._checks_failed >= CHECKS_FAILED:
            self._give_up(why)
        raise EngineError(why)

    def _seconds(self, tokens: int) -> float:
        """Return how long a text of so many tokens can take before the engine counts as hanging.

        0 if there is no curve.
        """
        if self._curve is None:
            return 0.0
        return SLOWER * self._curve.step(tokens, attention((tokens,), self._attention_tokens), 1)

    def _give_up(self, why: str) -> None:
        log.error("%s; this replica answers no more", why)
        self._die(why)
        self._stop_probe()
        for caller in self._callers:
            caller.cancel()

    def _stop_probe(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def _disproved(self, error: WrongModel) -> None:
        self._die(str(error))

    def _die(self, why: str) -> None:
        self._dead = why
        if self._leave is not None and self._leaving is None:
            self._leaving = asyncio.create_task(self._leave_when_told(self._leave))

    async def _leave_when_told(self, leave: Callable[[int], object]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED_S):
                await self._idle.wait()
        await asyncio.sleep(WRITTEN_S)
        log.error("%s: this process ends, so that its card is free", self._dead)
        leave(1)

    def sample(self, tally: Tally, model: str) -> None:
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
        if (identity := self._identity) is not None:
            for result, count in (
                ("passed", identity.passed),
                ("failed", identity.failed),
                ("put_off", identity.put_off),
            ):
                tally.set(metrics.IDENTITY, (model, result), count)

    async def stop(self) -> None:
        """Stop the engine and release what it holds."""
        self._stopped = True
        self._stop_probe()
        if self._identity is not None:
            self._identity.stop()
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
