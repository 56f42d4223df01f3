"""What log lines carry beside their message, and what they never do: the text of a request.

Added here: the id of the request that a line is about, the ids of all requests of a call in the
lines of a replica, and trace and span where tracing is on. With `logging_config: {encoding: JSON}`
each is a key.

An exception's message may quote what it failed on, so errors that are not the router's own are
logged by `where`: types and lines of code, of the whole chain, and no message.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import MemoryHandler
from pathlib import Path

from deployments.serve_internals import log_buffers

# whose work is done now
REQUEST_IDS: ContextVar[tuple[str, ...]] = ContextVar("request_ids", default=())

log = logging.getLogger("ray.serve")


class Context(logging.Filter):
    """Puts ids into records; lets every record pass."""

    def __init__(self, traced: bool) -> None:
        super().__init__()
        self._traced = traced

    def filter(self, record: logging.LogRecord) -> bool:
        """Add what is known of the current context."""
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
    """Add the ids to Serve's logger in this process; once is enough."""
    if not any(isinstance(one, Context) for one in log.filters):
        log.addFilter(Context(traced))


@contextmanager
def kept() -> Iterator[None]:
    """Undo what a library does to Serve's log in this block when it sets up logging for itself, as
    vLLM does on import.

    `logging.config.dictConfig` closes every handler there is, whoever made it. Serve's has then
    nowhere to write and keeps every record for ever; and Serve's controller, should it be started
    again, gives the replica up, for it asks where that log is.
    """
    held = [(buffer, buffer.target) for buffer in log_buffers(log)]
    try:
        yield
    finally:
        for handler, target in held:
            if handler.target is None:
                handler.setTarget(target)


def beside(name: str) -> Path | None:
    """A file for the log of `name` beside the one that Serve keeps of this process; None outside of
    Serve.
    """
    for handler in log.handlers:
        target = handler.target if isinstance(handler, MemoryHandler) else handler
        if isinstance(target, logging.FileHandler):
            file = Path(target.baseFilename)
            return file.with_name(f"{name}_{file.stem}.log")
    return None


def where(error: BaseException) -> str:
    """Types and lines of code of an error and of what caused it, the cause first; no message, which
    may hold text.
    """
    chain: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in chain:
        chain.append(now)
        now = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
    parts = [
        "".join([*traceback.format_tb(one.__traceback__), type(one).__name__])
        for one in reversed(chain)
    ]
    return "\nwhich led to\n".join(parts)
