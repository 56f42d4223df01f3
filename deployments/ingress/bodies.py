"""Read the body of a request, plain or in gzip, within limits on its size and time."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from deployments.ingress.asgi import ClientLeft, HttpRequest, Receive, attended
from router.errors import InvalidValue, RequestTimeout, RequestTooLarge, shorten

OffLoop = Callable[[Callable[[], bytes]], Awaitable[bytes]]

MAX_GZIP_FILES = 32  # in one body
GZIP_FREE_BYTES = 1024 * 1024  # that a gzip body can become, however small it was sent
ON_LOOP_BYTES = 64 * 1024  # a gzip body that becomes more is inflated in a thread
GZIP = b"\x1f\x8b"  # how every file begins
MAX_RATIO = 1032  # of deflate: a larger size in a trailer is no size


async def body(
    http_request: HttpRequest,
    limit: int,
    timeout_s: float,
    gzip_ratio: int = 100,
    off_loop: OffLoop | None = None,
) -> bytes:
    """Read the whole body, unzipped; raises RequestTooLarge, RequestTimeout, ClientLeft or
    InvalidValue. `off_loop` runs what inflates a large body.
    """
    coding = http_request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        raise InvalidValue(
            f"content-encoding {shorten(coding)} is not known here; send the body plain or with "
            "gzip",
            "content-encoding",
        )
    sent = await _sent(http_request, limit, timeout_s)
    if coding not in ("gzip", "x-gzip"):
        return sent
    inflated = _Inflated(sent, limit, gzip_ratio)
    inflated.refuse_by_trailer()
    if len(sent) <= ON_LOOP_BYTES and (whole := inflated.within(ON_LOOP_BYTES)) is not None:
        return whole
    return await (off_loop or asyncio.to_thread)(inflated.whole)


class _Inflated:
    """A gzip body, inflated to at most `limit` bytes, and `ratio` times as many as were sent."""

    def __init__(self, sent: bytes, limit: int, ratio: int) -> None:
        self._sent, self._limit, self._ratio = sent, limit, ratio
        self._may_become = max(GZIP_FREE_BYTES, ratio * len(sent))

    def refuse_by_trailer(self) -> None:
        """Refuse a small body whose last four bytes, its size in gzip, say that it is too large.

        Raises RequestTooLarge. A size that no gzip file can have is left to the inflating, and so
        is a large body: it could be one that was cut off, with other bytes there.
        """
        size = int.from_bytes(self._sent[-4:], "little")
        if (
            self._sent.startswith(GZIP)
            and len(self._sent) <= ON_LOOP_BYTES
            and min(self._limit, self._may_become) < size <= MAX_RATIO * len(self._sent)
        ):
            raise self._too_large()

    def within(self, most: int) -> bytes | None:
        """The body, or None if it is larger than `most`; raises as `whole`."""
        return self._all(min(most, self._limit, self._may_become))

    def whole(self) -> bytes:
        """The body; raises RequestTooLarge, or InvalidValue if it is not gzip."""
        made = self._all(min(self._limit, self._may_become))
        if made is None:
            raise self._too_large()
        return made

    def _all(self, most: int) -> bytes | None:
        parts, left, sent = list[bytes](), most, self._sent
        while sent:  # a gzip body can be several files in a row
            if len(parts) == MAX_GZIP_FILES:  # each costs a copy of what follows it
                raise InvalidValue(
                    f"the body is more than {MAX_GZIP_FILES} gzip files after one another; send "
                    "one",
                    "content-encoding",
                )
            stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            try:
                part = stream.decompress(sent, left + 1)
            except zlib.error as error:
                raise InvalidValue(
                    f"content-encoding says gzip and the body is not: {error}", "content-encoding"
                ) from None
            left -= len(part)
            if left < 0:
                return None
            if not stream.eof:
                raise InvalidValue(
                    "content-encoding says gzip and the body ends too early", "content-encoding"
                )
            parts.append(part)
            sent = stream.unused_data
        return b"".join(parts)

    def _too_large(self) -> RequestTooLarge:
        if self._may_become < self._limit:
            return RequestTooLarge(
                self._may_become,
                f"a gzip body may become {self._ratio} times as large as what is sent "
                "(limits.max_gzip_ratio); send it plain",
            )
        return RequestTooLarge(self._limit)


async def _sent(http_request: HttpRequest, limit: int, timeout_s: float) -> bytes:
    """Read the body as it was sent; raises RequestTooLarge (before reading if the length is
    declared), RequestTimeout, or ClientLeft on a broken upload.
    """
    if http_request.sent is not None:
        if len(http_request.sent) > limit:
            raise RequestTooLarge(limit)
        return http_request.sent
    declared = http_request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:12]) > limit:
        raise RequestTooLarge(limit)
    try:
        return await attended(_whole(http_request.receive, limit), timeout_s)
    except TimeoutError:
        raise RequestTimeout(timeout_s) from None


async def _whole(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > limit:
            raise RequestTooLarge(limit)
        if not message.get("more_body", False):
            return b"".join(parts) if len(parts) > 1 else part
