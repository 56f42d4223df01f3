"""Whether requests arrive faster than a fleet answers them, seen from one steady run."""

GROWTH = 1.5  # a backlog that grows from nothing is 2.3 times as large in the last quarter
UNSEEN = 0.005  # share of the arrivals by which a backlog can grow
FEW = 2.0  # requests; so many come and go by chance


class Backlog:
    """Requests in flight in the second and in the last quarter of a run, by class.

    A fleet that keeps up has about as many in both. In an overloaded one they grow with time, also
    where no budget is missed yet.
    """

    def __init__(self, seconds: float) -> None:
        """Requests arrive for `seconds` at a constant rate."""
        self._seconds = seconds
        self._kinds: dict[str, list[float]] = {}

    def add(self, kind: str, arrived_s: float, ended_s: float) -> None:
        """Count one request."""
        seconds = self._seconds
        sums = self._kinds.setdefault(kind, [0.0, 0.0, 0.0])
        sums[0] += max(0.0, min(ended_s, 0.5 * seconds) - max(arrived_s, 0.25 * seconds))
        sums[1] += max(0.0, min(ended_s, seconds) - max(arrived_s, 0.75 * seconds))
        sums[2] += arrived_s >= 0.5 * seconds

    @property
    def excess(self) -> float:
        """Share of the arrivals that are not answered in time to keep up: 0 for a fleet that does,
        and of several classes the largest.
        """
        quarter_s, most = 0.25 * self._seconds, 0.0
        for early_s, late_s, arrived in self._kinds.values():
            allowed = GROWTH * early_s / quarter_s + UNSEEN * arrived + FEW
            most = max(most, (late_s / quarter_s - allowed) / max(1.0, arrived))
        return most
