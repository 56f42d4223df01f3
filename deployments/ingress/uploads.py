"""A file sent as multipart/form-data, written to the disk as it arrives."""

import asyncio
import time
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from deployments.ingress.asgi import ClientLeft, HttpRequest
from deployments.service.batches.disk import to_the_end
from deployments.service.batches.files import Upload
from deployments.service.batches.store import BatchStore
from router.batch_objects import FileObject
from router.config import Limits
from router.errors import InvalidValue, RequestTimeout, RequestTooLarge, shorten
from router.ignoring import Ignore, unknown

FIELDS = ("file", "purpose")
PURPOSE = "batch"
AT_ONCE_BYTES = 1024 * 1024  # parsed and written in one step of a thread
AROUND_BYTES = 64 * 1024  # boundaries, headers and fields around a file
MAX_FIELD_BYTES = 200
MAX_NAME_CHARACTERS = 255
MIN_BYTES_PER_S = 64 * 1024  # a slower upload occupies its place for too long


async def receive_file(
    http_request: HttpRequest, limits: Limits, store: BatchStore, key: str, ignore: Ignore
) -> FileObject:
    """Store the file of a request; `ignore` drops unknown fields.

    Raises RequestTooLarge, RequestTimeout, InvalidValue, UnknownField or ClientLeft, and then
    leaves nothing of the file.
    """
    boundary = _boundary(http_request)
    declared = http_request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:18]) > limits.max_file_bytes + AROUND_BYTES:
        raise _too_large(limits)
    upload = await asyncio.to_thread(store.files.upload, key, limits.max_file_bytes)
    try:
        form = UploadForm(boundary, upload, ignore)
        await _fed(http_request, limits, form)
        name, http_request.ignored = form.check(), form.ignored
        return await to_the_end(upload.finish, name, "batch", int(store.clock()))
    except BaseException:
        await to_the_end(upload.abandon)
        raise


def _too_large(limits: Limits) -> RequestTooLarge:
    return RequestTooLarge(limits.max_file_bytes, "upload several files (limits.max_file_bytes)")


def _boundary(http_request: HttpRequest) -> bytes:
    kind, options = parse_options_header(http_request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise InvalidValue(
            "a file is sent as multipart/form-data with the fields file and purpose", "content-type"
        )
    coding = http_request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise InvalidValue(
            f"a file is sent plain, not with content-encoding {shorten(coding)}", "content-encoding"
        )
    return options[b"boundary"]


async def _fed(http_request: HttpRequest, limits: Limits, form: "UploadForm") -> None:
    """Feed the body to the form, in steps that neither fill the memory nor block the event loop."""
    parts, waiting, size, began_s, more = list[bytes](), 0, 0, time.monotonic(), True
    while more:
        if http_request.sent is not None:
            message: Any = {"type": "http.request", "body": http_request.sent}
        else:
            try:
                async with asyncio.timeout(limits.body_timeout_s):
                    message = await http_request.receive()
            except TimeoutError:
                raise RequestTimeout(limits.body_timeout_s) from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part, more = message.get("body", b""), message.get("more_body", False)
        parts.append(part)
        waiting, size = waiting + len(part), size + len(part)
        if size > limits.max_file_bytes + AROUND_BYTES:
            raise _too_large(limits)
        allowed_s = limits.body_timeout_s + size / MIN_BYTES_PER_S
        if time.monotonic() - began_s > allowed_s:
            raise RequestTimeout(allowed_s)
        if waiting >= AT_ONCE_BYTES or not more:
            whole, parts, waiting = b"".join(parts), [], 0
            await to_the_end(form.feed, whole)


class UploadForm:
    """The fields of a form: `purpose` is kept, `file` is written to its upload."""

    def __init__(self, boundary: bytes, upload: Upload, ignore: Ignore) -> None:
        self._upload, self._ignore = upload, ignore
        self.ignored: tuple[str, ...] = ()  # unknown fields that were dropped
        self._seen: dict[str, bytearray] = {}
        self._field, self._name, self._value = "", bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._filename, self._ended = "", False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, data: bytes) -> None:
        """Parse the next part of the body; raises InvalidValue, UnknownField or RequestTooLarge."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise InvalidValue(f"the body is not multipart/form-data: {error}") from None

    def check(self) -> str:
        """Return the file's name, once the body is complete; raises InvalidValue."""
        if not self._ended:
            raise InvalidValue("the body is not multipart/form-data: it ends too early")
        for name in FIELDS:
            if name not in self._seen:
                raise InvalidValue(f"{name} is missing", name)
        purpose = self._seen["purpose"].decode("utf-8", "replace")
        if purpose != PURPOSE:
            raise InvalidValue(f'purpose must be "{PURPOSE}", it is {shorten(purpose)}', "purpose")
        return self._filename or "upload.jsonl"

    def _begin(self) -> None:
        self._headers = {}

    def _header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if self._field not in FIELDS:
            self.ignored = unknown((*self.ignored, self._field), FIELDS, self._ignore)
            return
        if self._field in self._seen:
            raise InvalidValue(f"{self._field} is sent twice; send it once", self._field)
        self._seen[self._field] = bytearray()
        if self._field == "file":
            name = options.get(b"filename", b"").decode("utf-8", "replace")
            self._filename = "".join(filter(str.isprintable, name))[:MAX_NAME_CHARACTERS]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "file":
            self._upload.write(data[start:end])
            return
        if (value := self._seen.get(self._field)) is None:
            return
        value.extend(data[start:end])
        if len(value) > MAX_FIELD_BYTES:
            raise InvalidValue(f"{self._field} is too long", self._field)

    def _end(self) -> None:
        self._ended = True
