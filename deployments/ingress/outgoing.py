"""Bytes of finished answers that their clients have not read yet."""

from router.config import Limits
from router.errors import RateLimitExceeded, RequestTooLarge

SMALL_BYTES = 256 * 1024  # answers up to here are counted and never refused
BUSY_RETRY_S = 1.0


class Held:
    """One answer being sent; `stall_s` is how far its client can fall behind (pace.py)."""

    __slots__ = ("_client", "_outgoing", "_size", "stall_s")

    def __init__(self, outgoing: "Outgoing", client: str, size: int, stall_s: float) -> None:
        self._outgoing, self._client, self._size, self.stall_s = outgoing, client, size, stall_s

    def release(self) -> None:
        """Stop counting an answer that was read or abandoned; safe to call twice."""
        bytes_of, size, self._size = self._outgoing.bytes_of, self._size, 0
        if (left := bytes_of.get(self._client, 0) - size) > 0:
            bytes_of[self._client] = left
        else:
            bytes_of.pop(self._client, None)


class Outgoing:
    """The answers that one router is sending."""

    def __init__(self) -> None:
        self.bytes_of: dict[str, int] = {}  # by client

    def hold(self, client: str, size: int, limits: Limits) -> Held:
        """Count an answer of about `size` bytes before it is made; raises RateLimitExceeded.

        One client can have half of the limit.
        """
        if size > SMALL_BYTES:
            self._check(client, size, limits)
        self.bytes_of[client] = self.bytes_of.get(client, 0) + size
        return Held(self, client, size, limits.send_timeout_s)

    def check(self, client: str, size: int, limits: Limits) -> None:
        """Refuse an answer of about `size` bytes that cannot be sent, before its vectors are made.

        Raises RequestTooLarge if it can never be sent, otherwise RateLimitExceeded.
        """
        if size > limits.max_answer_bytes:
            raise RequestTooLarge.by_answer(size, limits.max_answer_bytes)
        if size > SMALL_BYTES:
            self._check(client, size, limits)

    def _check(self, client: str, size: int, limits: Limits) -> None:
        most, own = limits.max_answer_bytes, self.bytes_of.get(client, 0)
        limit = "{} bytes of answers that are not read yet (limits.max_answer_bytes)"
        if (total := sum(self.bytes_of.values())) and total + size > most:
            raise RateLimitExceeded(limit.format(most), BUSY_RETRY_S, "this router")
        if own and own + size > most // 2:
            raise RateLimitExceeded(limit.format(most // 2), BUSY_RETRY_S, "this client")
