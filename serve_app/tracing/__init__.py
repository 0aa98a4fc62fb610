"""OpenTelemetry traces: spans of one request across processes, W3C trace context in and out, export by environment."""
