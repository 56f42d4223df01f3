"""Our spans among Serve's: what the router did with a request, and which calls carried it.

With `tracing_config`, Serve opens a span for every HTTP request and every call between deployments.
Ours (docs/observability.md lists them) are below the request's: `features`, `decide`, `dispatch`,
`engine`, and `embed` for a replica's work on a call, in its own process.

One call to a replica carries texts of many requests. Its span `call` is a child of the first traced
request's `dispatch` and links to those of the others. The replica's `embed` is below it, through
the W3C traceparent in the call; so are Serve's spans if the call uses Serve's handles. No attribute
contains text.

With tracing off, `tracing()` returns None and nothing else here runs. No span is created for an
unrecorded request without a caller's trace: its trace id alone decides whether it is recorded.
"""

from collections.abc import Iterable, Mapping
from typing import Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_PROPAGATOR = TraceContextTextMapPropagator()
_NO_PARENT = otel_context.Context()
_UNSAMPLED = trace.set_span_in_context(
    NonRecordingSpan(
        SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    ),
    _NO_PARENT,
)


class Tracing:
    """Creates the spans of one process."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self._ids = tracer.id_generator = _DrawnBefore(tracer.id_generator)
        # Serve's sampler uses its root sampler if there is no parent. Only a ratio's decision is
        # known without calling the sampler.
        root = (
            getattr(tracer.sampler, "_root", None)
            if isinstance(tracer.sampler, ParentBased)
            else None
        )
        self._sampled_below = root.bound if isinstance(root, TraceIdRatioBased) else None

    def current(self) -> SpanContext | None:
        """Return the context of the current span if it is recorded."""
        if not otel_context.get_current():  # no span began here, as for nearly every request
            return None
        context = trace.get_current_span().get_span_context()
        return context if context.is_valid and context.trace_flags.sampled else None

    def requested(
        self, method: str, route: str, headers: Mapping[str, str], request_id: str
    ) -> "Requested | None":
        """Start the span of a request that has none of Serve's, for a `with`; None if not recorded.

        Its parent is the caller's span, if there is one. Otherwise the trace id is drawn here and
        compared with the bound of Serve's sampler first: creating a span that records nothing takes
        many times as long.
        """
        parent, has_parent = _NO_PARENT, False  # the current span can be another request's
        if "traceparent" in headers:
            parent = _PROPAGATOR.extract(headers, _NO_PARENT)
            has_parent = trace.get_current_span(parent).get_span_context().is_valid
        if not has_parent and self._sampled_below is not None:
            drawn = self._ids.draw()
            if drawn & TraceIdRatioBased.TRACE_ID_LIMIT >= self._sampled_below:
                return None
            self._ids.next = drawn
        name, attributes = (
            f"{method} {route}",
            {"http.request.method": method, "http.route": route, "request_id": request_id},
        )
        span = self.tracer.start_span(name, parent, SpanKind.SERVER, attributes)
        return Requested(span) if span.is_recording() else None

    def traceparent(self) -> str | None:
        """Return the current span as a W3C traceparent; None if it is not recorded."""
        context = self.current()
        return None if context is None else f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def serving(self, traceparent: str | None, texts: int, tokens: int) -> Span | None:
        """Start the span `embed` of a replica's work on a call; make it this task's current span.

        The caller must end it with the work. None without a traceparent.
        """
        if traceparent is None:
            return None
        parent = _PROPAGATOR.extract({"traceparent": traceparent})
        span = self.tracer.start_span(
            "embed", parent, SpanKind.SERVER, {"embedding.texts": texts, "embedding.tokens": tokens}
        )
        otel_context.attach(trace.set_span_in_context(span))
        return span

    def failed(self, error: Exception) -> None:
        """Mark the span of this context's call as failed, with the name of the error only."""
        trace.get_current_span().set_status(Status(StatusCode.ERROR, type(error).__name__))

    def call(
        self, model: str, texts: int, tokens: int, carried: Iterable[SpanContext | None]
    ) -> Span | None:
        """Start the span of a call and make it current, so that Serve's spans are below it.

        `carried` are the spans of the requests in the call. Returns the call's span, which must end
        with it, or None if no request in it is traced. Serve then records none either.
        """
        origins = [origin for origin in carried if origin is not None]
        if not origins:
            otel_context.attach(_UNSAMPLED)
            return None
        parent = trace.set_span_in_context(NonRecordingSpan(origins[0]))
        span = self.tracer.start_span(
            "call",
            parent,
            SpanKind.CLIENT,
            links=[Link(origin) for origin in origins[1:]],
            attributes={
                "embedding.model": model,
                "embedding.texts": texts,
                "embedding.tokens": tokens,
            },
        )
        otel_context.attach(trace.set_span_in_context(span))
        return span


class _DrawnBefore(IdGenerator):
    """Ids from `others`, except that the next trace can get an id that was drawn before."""

    def __init__(self, others: IdGenerator) -> None:
        self._others = others
        self.draw = others.generate_trace_id
        self.next: int | None = None

    def generate_trace_id(self) -> int:
        drawn, self.next = self.next, None
        return self.draw() if drawn is None else drawn

    def generate_span_id(self) -> int:
        return self._others.generate_span_id()

    def is_trace_id_random(self) -> bool:
        return self._others.is_trace_id_random()


class CurrentSpan:
    """A span that is current inside a `with` block and ends with it."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        self._token = otel_context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        otel_context.detach(self._token)
        if kind is not None:  # only its name: a server's message can quote the text
            self._span.set_status(Status(StatusCode.ERROR, kind.__name__))
        self._span.end()


class Requested(CurrentSpan):
    """The span of one request."""

    def answered(self, status: int) -> None:
        """Record the status of the response; from 500 on it is the service's error."""
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


def tracing() -> Tracing | None:
    """Return a Tracing if Serve's tracing was on when this process started."""
    provider = trace.get_tracer_provider()
    tracer = provider.get_tracer("embedding_router")
    return (
        Tracing(tracer)
        if isinstance(provider, TracerProvider) and isinstance(tracer, Tracer)
        else None
    )
