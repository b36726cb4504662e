"""The Prometheus objects, each named once. It must never know logic: what is counted is decided where it happens."""

from prometheus_client import Counter, Gauge, Histogram

# Seconds from 1 ms to 60 s.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

# Not an `Enum`, which workers cannot share. Each state has a series from the start.
STATES = ("starting", "serving", "draining", "stuck", "broken")
STATE = Gauge(
    "pipeline_state", "1 for what the server is doing; with workers, for what any of them is doing.",
    ["pipeline_state"], multiprocess_mode="livemax",
)  # fmt: skip
for _state in STATES:
    STATE.labels(_state)
REQUESTS = Counter(
    "pipeline_requests", "HTTP requests answered, by route, status and error type.", ["route", "status", "error_type"]
)
REQUEST_SECONDS = Histogram(
    "pipeline_request_seconds", "From the head of a request to the end of its answer, by route and status.",
    ["route", "status"], buckets=SECONDS,
)  # fmt: skip
QUEUE_SECONDS = Histogram(
    "pipeline_queue_seconds", "How long an input waited for the batch that it was run in.", buckets=SECONDS
)
MODEL_SECONDS = Histogram("pipeline_model_seconds", "How long a batch took, all of its passes.", buckets=SECONDS)
IN_FLIGHT = Gauge("pipeline_inputs_in_flight", "Inputs admitted and not yet complete.", multiprocess_mode="livesum")
INPUTS = Counter("pipeline_inputs", "Inputs that are complete, by outcome.", ["outcome"])
REJECTED = Counter("pipeline_rejected", "Inputs not admitted, by reason.", ["reason"])
HELD = Counter("pipeline_held", "Requests that came back before their Retry-After was over, and were held.")
DEDUPLICATED = Counter("pipeline_deduplicated", "Inputs answered with the result of an equal one in their batch.")
BATCH_SIZE = Histogram("pipeline_batch_size", "Inputs in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
BATCH_TOKENS = Histogram("pipeline_batch_tokens", "Tokens in a batch, without padding.", buckets=TOKENS)
PADDING_TOKENS = Histogram(
    "pipeline_padding_tokens", "Tokens of padding that the passes of a batch computed.", buckets=(0, *TOKENS)
)
GENERATING = Gauge(
    "pipeline_generating_inputs", "Inputs that are generated from at the same time.", multiprocess_mode="livesum"
)
CACHE_TOKENS = Gauge(
    "pipeline_cache_tokens", "Tokens that their keys and values have room for.", multiprocess_mode="livesum"
)
PROMPT_TOKENS = Counter("pipeline_prompt_tokens", "Tokens of prompts that were computed.")
GENERATED_TOKENS = Counter("pipeline_generated_tokens", "Tokens that were generated.")
FIRST_TOKEN_SECONDS = Histogram(
    "pipeline_first_token_seconds", "From the arrival of an input to its first generated token.", buckets=SECONDS
)
TOKEN_SECONDS = Histogram("pipeline_token_seconds", "Between two generated tokens of an input.", buckets=SECONDS)
OUT_OF_MEMORY = Counter("pipeline_out_of_memory", "Forward passes that ran out of memory, and were tried in halves.")


def set_state(current: str) -> None:
    """Make this state, and no other, the one that is 1."""
    for state in STATES:
        STATE.labels(state).set(state == current)
