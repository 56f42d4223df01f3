"""The health of one replica's engine: probes, signs of progress, and the end of the process."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from deployments.engines.base import Engine, EngineDead, EngineError
from router.domain import Curve, attention

ANSWERED_S = 5.0  # for callers to receive the error that their engine is dead
WRITTEN_S = 0.2  # for a reply to get from here to the socket
CHECKS_FAILED = 3  # in a row, after which Serve replaces the replica
# times its curve: an engine that reads a long text for longer counts as hanging
SLOWER = 4.0

log = logging.getLogger("ray.serve")


class EngineHealth:
    """Whether one engine still works."""

    def __init__(
        self,
        engine: Engine,
        timeout_s: float = 20.0,
        curve: Curve | None = None,
        attention_tokens: int | None = None,
        leave: Callable[[int], object] | None = None,
    ) -> None:
        """Watch `engine`; `leave` ends the process once the engine is dead.

        It is called after the callers got their errors. The memory of a card is free only then.
        With None, Serve ends the process, which takes three health checks and more.
        """
        self._engine = engine
        self._timeout_s, self._curve, self._attention_tokens = timeout_s, curve, attention_tokens
        self._leave = leave
        self._leaving: asyncio.Task[None] | None = None
        self.dead: str | None = None  # why
        self._idle = asyncio.Event()  # set while no call is in flight
        self._idle.set()
        self._callers: dict[asyncio.Task[Any], float] = {}  # with their longest text's seconds
        # at the last check: tokens served, tokens queued, calls that started or ended
        self._seen = (0, 0, 0)
        self._changes = 0
        self._probe: asyncio.Task[None] | None = None
        self._probed_s = 0.0  # when it was sent
        # longest time that the engine can take for one text, of those received since its last sign
        # of life
        self._longest_s = 0.0
        self._checks_failed = 0

    def require_alive(self) -> None:
        """Raise EngineDead if the engine is dead."""
        if self.dead is not None:
            raise EngineDead(self.dead)

    @contextmanager
    def calling(self, caller: asyncio.Task[Any], longest: int) -> Iterator[None]:
        """Count a call, whose longest text has `longest` tokens, while the block runs."""
        self._callers[caller] = longest_s = self._seconds(longest)
        self._longest_s = max(self._longest_s, longest_s)
        self._idle.clear()
        self._changes += 1
        try:
            yield
        finally:
            del self._callers[caller]
            self._changes += 1
            if not self._callers:
                self._idle.set()

    async def check(self, served_tokens: int) -> None:
        """Probe the engine; Serve replaces the replica when this raises three times in a row.

        Progress since the last check is sign enough of life: behind other work the probe could wait
        longer than Serve does. Calls that start and end are no progress: they can all end because
        their callers have left. An unanswered probe goes on until the next check, which then does
        not wait again. The third failed check gives up the engine and sends its calls back to their
        routers. An engine reads a text in one go, which can take minutes for a long one; its probe
        waits that long too.
        """
        self.require_alive()
        if self._moved_on(served_tokens):
            self.stop_probe()
            self._longest_s = max(self._callers.values(), default=0.0)
        else:
            await self._check_engine()
        self._checks_failed = 0

    def _moved_on(self, served_tokens: int) -> bool:
        served, queued, changes = now = (
            served_tokens,
            self._engine.queued_tokens(),
            self._changes,
        )
        before, self._seen = self._seen, now
        return bool(self._callers) and (
            served > before[0] or (changes == before[2] and queued < before[1])
        )

    async def _check_engine(self) -> None:
        probe, wait_s = self._probe, 0.0
        if probe is None:
            self._probe = probe = asyncio.ensure_future(self._engine.check_health())
            self._probed_s, wait_s = time.monotonic(), self._timeout_s
        await asyncio.wait({probe}, timeout=wait_s)
        if probe.done():
            self._probe = None
            try:
                probe.result()
            except EngineDead as error:
                self.die(str(error))
                raise
            self._longest_s = max(self._callers.values(), default=0.0)
            return
        patience_s = self._timeout_s + self._longest_s
        if self._longest_s and time.monotonic() - self._probed_s < patience_s:
            return
        self._checks_failed += 1
        why = f"the engine did not answer a probe within {patience_s:.3g} s"
        if self._checks_failed >= CHECKS_FAILED:
            self._give_up(why)
        raise EngineError(why)

    def _seconds(self, tokens: int) -> float:
        """Return how long a text of `tokens` tokens can take before the engine counts as hanging.

        0 if there is no curve.
        """
        if self._curve is None:
            return 0.0
        return SLOWER * self._curve.step(tokens, attention((tokens,), self._attention_tokens), 1)

    def _give_up(self, why: str) -> None:
        log.error("%s; this replica answers no more", why)
        self.die(why)
        self.stop_probe()
        for caller in self._callers:
            caller.cancel()

    def stop_probe(self) -> None:
        """Cancel the probe that is in flight."""
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def die(self, why: str) -> None:
        """Record that the engine is dead, and end the process once its callers are answered."""
        self.dead = why
        if self._leave is not None and self._leaving is None:
            self._leaving = asyncio.create_task(self._leave_when_idle(self._leave))

    async def _leave_when_idle(self, leave: Callable[[int], object]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED_S):
                await self._idle.wait()
        await asyncio.sleep(WRITTEN_S)
        log.error("%s: this process ends, so that its card is free", self.dead)
        leave(1)
