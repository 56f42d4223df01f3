"""Spans leave for an OTLP endpoint, as a collector would see them."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider

from deployments.export_spans import otlp


def test_spans_arrive_at_the_endpoint_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[tuple[str, ExportTraceServiceRequest]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        provider = TracerProvider()
        for processor in otlp():
            provider.add_span_processor(processor)
        provider.get_tracer("test").start_span(
            "decide", attributes={"embedding.model": "small"}
        ).end()
        assert provider.force_flush()
        provider.shutdown()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    ((path, request),) = got
    assert path == "/v1/traces"
    assert request.resource_spans[0].scope_spans[0].spans[0].name == "decide"
