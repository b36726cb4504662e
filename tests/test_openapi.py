"""The OpenAPI document is valid and true: what it says is accepted is, what it says is answered is."""

from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from schemathesis import GenerationMode

from failures import STATUS
from openapi import FAILURES, document
from schemas import Facts
from tasks import TASKS
from tests.process import Process
from tests.sentences import EMBEDDING

EXAMPLES = 12  # of requests that are tried, for each route and kind
# Beside its defaults: our limits are 413. What a tokenizer makes of a text, whether bytes are an image and whether
# columns are equally long cannot be said in JSON Schema, so there a valid request may be refused as 422.
REFUSALS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422"]
TAKEN = ["2xx", "401", "403", "404", "409"]
BEYOND_SCHEMA = {task for task in TASKS if TASKS[task].takes != "text"}


def described(task: str, **more: Any) -> dict[str, object]:
    return {"model": "m", "mask_token": "[MASK]", "vocabulary": 8192, "embedding": None, **more}


def facts_of(task: str, *, has_key: bool = False, **more: Any) -> Facts:
    return Facts(task, TASKS[task], described(task, **more), "1.0", 32, 256, has_key)


@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_the_document_is_valid_for_every_task(task: str, has_key: bool) -> None:
    embedding = {"prompts": ["query"]} if has_key else None
    validate(document(facts_of(task, has_key=has_key, embedding=embedding)))


def test_every_error_of_the_table_is_in_it() -> None:
    told = {(status, kind) for status, kinds, _ in FAILURES.values() for kind in kinds}
    assert told == set(STATUS.values()) | {(500, "internal")}


def test_every_route_is_in_it_and_each_has_its_name(every_task: Process) -> None:
    got = httpx2.get(f"{every_task.url}/fill-mask/openapi.json").json()
    assert set(got["paths"]) == {
        *("/", "/v1/embeddings", "/health", "/ready", "/info", "/metrics", "/openapi.json", "/docs"),
    }
    names = [operation["operationId"] for path in got["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))


def test_what_the_model_and_the_server_allow_is_in_it(every_task: Process) -> None:
    def schemas(name: str) -> Any:
        return httpx2.get(f"{every_task.url}/{name}/openapi.json").json()["components"]["schemas"]

    (top_k, _) = schemas("fill-mask")["Parameters"]["properties"]["top_k"]["anyOf"]
    assert (top_k["minimum"], top_k["maximum"]) == (1, 8192)
    assert schemas("fill-mask")["Input"] == {"type": "string", "pattern": "\\[MASK\\]"}
    (new_tokens, _) = schemas("text-generation")["Parameters"]["properties"]["max_new_tokens"]["anyOf"]
    assert new_tokens["maximum"] == 20
    assert "normalize" not in schemas("feature-extraction")["Parameters"]["properties"]
    assert schemas(EMBEDDING)["Parameters"]["properties"]["prompt_name"]["type"] == "null"


def test_with_an_api_key_the_document_says_so() -> None:
    got = document(facts_of("fill-mask", has_key=True))
    assert got["components"]["securitySchemes"] == {"apiKey": {"type": "http", "scheme": "bearer"}}
    secured = {path for path, methods in got["paths"].items() for route in methods.values() if route["security"]}
    assert secured == {"/", "/v1/embeddings", "/info", "/metrics", "/openapi.json"}


@pytest.mark.parametrize("name", [*TASKS, EMBEDDING])
def test_each_example_is_answered_as_the_document_says(name: str, every_task: Process) -> None:
    got = httpx2.get(f"{every_task.url}/{name}/openapi.json").json()
    for path in ("/", "/v1/embeddings") if name == EMBEDDING else ("/",):
        operation = got["paths"][path]["post"]
        for kind, content in operation["requestBody"]["content"].items():
            if "example" not in content:
                assert TASKS[name].takes_file
                continue
            body = {"json": content["example"]} if kind == "application/json" else {"content": content["example"]}
            answer = httpx2.post(f"{every_task.url}/{name}{path}", headers={"content-type": kind}, timeout=60, **body)
            assert answer.status_code == 200, answer.text
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            Draft202012Validator({**schema, "components": got["components"]}).validate(answer.json())


CHOSEN = ["fill-mask", "text-classification", "zero-shot-classification", "image-classification", EMBEDDING]


@pytest.mark.parametrize("name", [*CHOSEN, "text-generation", "table-question-answering", "feature-extraction"])
def test_requests_that_nobody_would_think_of_are_answered_as_the_document_says(name: str, every_task: Process) -> None:
    """All of schemathesis' checks, on what the document allows and on what it does not."""
    url = f"{every_task.url}/{name}"
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    schema.config.update(base_url=url)
    schema.config.checks.negative_data_rejection.expected_statuses = REFUSALS
    schema.config.checks.positive_data_acceptance.expected_statuses = TAKEN + ["422"] * (name in BEYOND_SCHEMA)
    for result in schema.get_all_operations():
        operation = result.ok()
        # A client that waits too briefly is answered with 503 or 504, which is no fault.
        patient = {"headers": {"X-Request-Timeout": "30"}} if operation.method == "post" else {}
        check(operation.as_strategy(generation_mode=GenerationMode.POSITIVE, **patient))
        if operation.method == "post":  # elsewhere there is nothing that could be wrong
            check(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


def check(strategy: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def try_one(case: Any) -> None:
        case.call_and_validate()

    try_one()
