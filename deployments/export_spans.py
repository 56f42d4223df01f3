"""Where spans go, for `tracing_config.exporter_import_path`."""

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def otlp() -> list[SpanProcessor]:
    """To an OTLP endpoint over HTTP, in batches and in the background; OpenTelemetry's environment
    variables say where.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return [BatchSpanProcessor(OTLPSpanExporter())]
