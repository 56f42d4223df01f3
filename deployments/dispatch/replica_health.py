"""How a replica stands with one router: what it has in hand, whether it hangs, and whether it is
left alone for a while.

A replica hangs when it has calls and answers none of them for as long as their limits say: an
answer to one gives the others time. One that failed is left alone, and for longer each time it
fails again without an answer between: failing fast, it would look like the least loaded of all.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from deployments.dispatch.transport import ReplicaLost

OUT_S = 2.0  # a replica that failed gets no calls for so long
MOST_OUT_S = 30.0  # twice as long each time it fails again, up to this


@dataclass(slots=True)
class ReplicaInFlight:
    """What one lane has in flight at one replica."""

    calls: list[int] = field(default_factory=lambda: [0, 0])  # small, large
    # of each call, and its seconds
    limits: dict[asyncio.Timeout, float] = field(default_factory=dict)
    failures: int = 0  # calls in a row
    nearly_done_s: float = 0.0  # when the small calls that went there should be

    @asynccontextmanager
    async def limit(self, seconds: float) -> AsyncIterator[None]:
        """Raises ReplicaLost in a call when it is so long since its replica answered any; an answer
        gives the others time.
        """
        limit = asyncio.timeout(seconds)
        self.limits[limit] = seconds
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise ReplicaLost(f"it answered nothing for {seconds:g} s") from error
        finally:
            del self.limits[limit]
        now = asyncio.get_running_loop().time()
        for other, other_s in self.limits.items():
            if not other.expired():
                other.reschedule(now + other_s)


class ReplicaEjection:
    """The replicas of one lane that failed a moment ago."""

    def __init__(self, over: Callable[[], None]) -> None:
        """`over` is called when one of them may be sent to again."""
        self._over = over
        self._out: set[str] = set()
        self._strikes: dict[
            str, int
        ] = {}  # times that a replica was left alone, without an answer between

    def __contains__(self, replica: str) -> bool:
        return replica in self._out

    def __len__(self) -> int:
        return len(self._out)

    def add(self, replica: str) -> None:
        """It failed: leave it alone from now on, for a while."""
        strikes = self._strikes[replica] = self._strikes.get(replica, 0) + 1
        self._out.add(replica)
        out_s = min(OUT_S * 2 ** (strikes - 1), MOST_OUT_S)
        asyncio.get_running_loop().call_later(out_s, self._end, replica)

    def answered(self, replica: str) -> None:
        """It works: should it fail again, that is the first time."""
        self._strikes.pop(replica, None)

    def keep(self, posted: Collection[str]) -> None:
        """Forget those that Serve has replaced."""
        self._out &= set(posted)
        self._strikes = {
            replica: strikes for replica, strikes in self._strikes.items() if replica in posted
        }

    def _end(self, replica: str) -> None:
        self._out.discard(replica)
        self._over()
