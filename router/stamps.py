"""When a request passed each point of its way, for those who look for where its time goes.

    arrived      its headers were read
    planned      its body and its key were read
    read         its texts were: tokens, language
    decided      a model was chosen
    queued       its texts joined the dispatcher's queue
    sent         the call with the last of them left
    at_replica   the replica began with that call
    prepared     the engine had made its own requests of the texts
    in_step      the engine took them
    stepped      the last of their vectors was made
    replied      the replica wrote its reply
    back         the router read that
    answered     the vectors were the request's
    written      the answer was handed to the socket

A point that the request did not pass is missing: one answered from the cache has no call.
"""

from collections.abc import Iterable

CALL = ("queued", "sent", "at_replica", "prepared", "in_step", "stepped", "replied", "back")
STAMPS = ("arrived", "planned", "read", "decided", *CALL, "answered", "written")


class Stamps:
    """The points that one request has passed, on one clock, and how many texts its call had."""

    __slots__ = ("_at", "call_texts")

    def __init__(self, arrived_s: float) -> None:
        self._at = {"arrived": arrived_s}
        self.call_texts: int | None = None  # its own and those of other requests

    def mark(self, name: str, at_s: float) -> None:
        """The request passed this point."""
        self._at[name] = at_s

    def called(self, times: Iterable[float], texts: int) -> None:
        """The points of its call, which had so many texts; none where nothing was sent."""
        self._at.update(zip(CALL, times, strict=False))
        self.call_texts = texts or None

    def milliseconds(self) -> dict[str, float]:
        """The points in the order of the way, in milliseconds since the first."""
        arrived_s = self._at["arrived"]
        return {
            name: round((self._at[name] - arrived_s) * 1000, 3)
            for name in STAMPS
            if name in self._at
        }
