"""The Prometheus objects, each named once. It must never know logic: who counts what is decided where it happens."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter(
    "pipeline_requests", "HTTP requests answered, by route, status and error type.", ["route", "status", "error_type"]
)
IN_HOUSE = Gauge("pipeline_in_house", "Inputs admitted and not yet answered or dropped.")
SKIPPED = Counter("pipeline_skipped", "Inputs dropped before the model, because nobody waited any more.", ["reason"])
BATCH_SIZE = Histogram("pipeline_batch_size", "Requests in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
