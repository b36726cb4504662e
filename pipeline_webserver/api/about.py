"""What the server says of itself: the model and the limits, the API, the metrics.

It must never know how requests are answered.
"""

from collections.abc import Mapping

import prometheus_client

from config import Settings
from pipeline_webserver import VERSION
from pipeline_webserver.api import openapi
from pipeline_webserver.api.schemas import Facts
from pipeline_webserver.api.tasks import TASKS

# The settings that `/info` tells: what a client can run into.
LIMITS = (
    "max_batch_size",
    "batch_wait_ms",
    "max_requests",
    "max_inputs",
    "max_new_tokens",
    "max_image_pixels",
    "max_audio_s",
    "request_timeout_s",
    "truncate",
)


def info(s: Settings, described: Mapping[str, object], **measured: int) -> dict[str, object]:
    """`described` is the runner's word; `measured` are limits that are known only once it is loaded."""
    limits = {name: getattr(s, name) for name in LIMITS} | measured
    return {**described, "limits": limits, "version": VERSION}


def api(s: Settings, task: str, described: Mapping[str, object]) -> dict[str, object]:
    """The OpenAPI document."""
    facts = Facts(task, TASKS[task], described, VERSION, s.max_inputs, s.max_new_tokens, bool(s.api_key))
    return openapi.document(facts)


def metrics() -> tuple[bytes, str]:
    """Prometheus text, and its media type."""
    return prometheus_client.generate_latest(), prometheus_client.CONTENT_TYPE_LATEST
