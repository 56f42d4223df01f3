"""Ids in log lines, and errors that are logged without the text of a request.

Each line gets the id of its request, or in a replica the ids of all requests of a call, and trace
and span where tracing is on. With `logging_config: {encoding: JSON}` each is a key.

No line ever contains the text of a request. An exception's message can quote it, so errors that are
not the router's own are logged by `where`: types and lines of code of the whole chain, no message.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import MemoryHandler
from pathlib import Path

from deployments.serve_internals import log_buffers, logs_every_request

# of the requests that are being processed
REQUEST_IDS: ContextVar[tuple[str, ...]] = ContextVar("request_ids", default=())

log = logging.getLogger("ray.serve")


class ContextFilter(logging.Filter):
    """Adds ids to log records; every record passes."""

    def __init__(self, traced: bool) -> None:
        super().__init__()
        self._traced = traced

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids of the current context."""
        if ids := REQUEST_IDS.get():
            record.request_ids = ids
            if len(ids) == 1:
                record.request_id = ids[0]
        if self._traced:
            from opentelemetry import trace

            span = trace.get_current_span().get_span_context()
            if span.is_valid:
                record.trace_id, record.span_id = f"{span.trace_id:032x}", f"{span.span_id:016x}"
        return True


def install(traced: bool) -> None:
    """Add the ids to Serve's logger in this process, and write its lines at once."""
    at_once()
    if not any(isinstance(item, ContextFilter) for item in log.filters):
        log.addFilter(ContextFilter(traced))


def at_once() -> None:
    """Write Serve's lines at once; further calls do nothing.

    With `RAY_SERVE_THROUGHPUT_OPTIMIZED` Serve holds 1,000 lines or until an error, which is meant
    for the access log: where that is on, warnings are still written at once.
    """
    for buffer in log_buffers(log):
        buffer.flushLevel = logging.WARNING if logs_every_request(log) else logging.NOTSET


@contextmanager
def kept() -> Iterator[None]:
    """Restore Serve's log after a library in this block set up its own logging, as vLLM does.

    On import, vLLM calls `logging.config.dictConfig`, which closes every existing handler. Serve's
    handler then has no target and keeps every record forever. A restarted Serve controller also
    gives up the replica, because it reads the path of that log.
    """
    held = [(buffer, buffer.target) for buffer in log_buffers(log)]
    try:
        yield
    finally:
        for handler, target in held:
            if handler.target is None:
                handler.setTarget(target)


def beside(name: str) -> Path | None:
    """Return a log file for `name` next to this process's Serve log; None outside of Serve."""
    for handler in log.handlers:
        target = handler.target if isinstance(handler, MemoryHandler) else handler
        if isinstance(target, logging.FileHandler):
            file = Path(target.baseFilename)
            return file.with_name(f"{name}_{file.stem}.log")
    return None


def where(error: BaseException) -> str:
    """Return types and lines of code of an error and of its causes, the cause first.

    Messages are left out, because they can contain text.
    """
    chain: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in chain:
        chain.append(now)
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    parts = [
        "".join([*traceback.format_tb(item.__traceback__), type(item).__name__])
        for item in reversed(chain)
    ]
    return "\nwhich led to\n".join(parts)
