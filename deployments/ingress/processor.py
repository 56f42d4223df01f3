"""CPU use of the router's process; routers scale by it."""

import time
from collections.abc import Callable

from router.capacity import DemandReport, ServiceRate

WINDOW_S = 10.0


class ProcessorShare:
    """Processor seconds of this process per second, averaged over about the last ten.

    `cores` is what this process can use. A container can have less than the one core that a router
    needs, and is then busy at a smaller share.
    """

    def __init__(
        self,
        cores: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        used_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock, self._used_s = clock, used_s
        self._rate = ServiceRate(0.0, WINDOW_S)
        self._cores = min(1.0, cores)
        self._seen = clock(), used_s()

    def share(self) -> float:
        """The current average."""
        now, used_s = self._clock(), self._used_s()
        since, used_before_s = self._seen
        self._rate.served(used_s - used_before_s, now - since)
        self._seen = now, used_s
        return self._rate.tokens_per_s

    def demand(self) -> DemandReport:
        """The average as a demand report, with processor seconds in place of tokens."""
        return DemandReport(self.share(), 0.0, 0.0, self._cores)
