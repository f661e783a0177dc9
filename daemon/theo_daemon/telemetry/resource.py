"""Who is speaking, as OpenTelemetry's backends group it."""

from __future__ import annotations

from opentelemetry.sdk.resources import OTELResourceDetector, Resource


def make_resource(*, version: str, instance: str) -> Resource:
    """Service name, version and instance; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over ours."""
    own = {"service.name": "theo-router", "service.version": version, "service.instance.id": instance}
    return Resource(own).merge(OTELResourceDetector().detect())
