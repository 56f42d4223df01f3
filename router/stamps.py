"""Timestamps of the stages of a request.

docs/observability.md explains each point. One that the request did not pass is missing: a request
answered from the cache has no call.
"""

from collections.abc import Iterable

CALL = ("queued", "sent", "at_replica", "prepared", "in_step", "stepped", "replied", "back")
STAMPS = ("arrived", "planned", "read", "decided", *CALL, "answered", "written")


class Stamps:
    """The stages that one request has passed, on one clock, and the number of texts in its call."""

    __slots__ = ("_at", "call_texts")

    def __init__(self, arrived_s: float) -> None:
        self._at = {"arrived": arrived_s}
        self.call_texts: int | None = None  # its own and those of other requests

    def mark(self, name: str, at_s: float) -> None:
        """Record that the request passed this stage."""
        self._at[name] = at_s

    def called(self, times: Iterable[float], texts: int) -> None:
        """Record the stages of its call and the number of texts in it; no times if nothing was
        sent.
        """
        self._at.update(zip(CALL, times, strict=False))
        self.call_texts = texts or None

    def milliseconds(self) -> dict[str, float]:
        """The stages in order, in milliseconds since the first."""
        arrived_s = self._at["arrived"]
        return {
            name: round((self._at[name] - arrived_s) * 1000, 3)
            for name in STAMPS
            if name in self._at
        }
