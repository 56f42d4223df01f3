"""Exporters of spans for `tracing_config.exporter_import_path`."""

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def otlp() -> list[SpanProcessor]:
    """Export spans to an OTLP endpoint over HTTP, in batches and in the background.

    OpenTelemetry's environment variables set the endpoint.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return [BatchSpanProcessor(OTLPSpanExporter())]
