"""The error responses of the OpenAPI document are the error table's."""

from pipeline_webserver.api.error_responses import NAMES, error_references, error_responses
from pipeline_webserver.api.error_table import ERROR_TABLE, INTERNAL
from pipeline_webserver.errors import NotServed


def types_of(response: dict[str, object]) -> list[str]:
    content = response["content"]
    assert isinstance(content, dict)
    types: list[str] = content["application/json"]["schema"]["allOf"][1]["properties"]["error_type"]["enum"]
    return types


def test_every_error_of_a_route_that_is_served_is_in_the_response_of_its_status() -> None:
    found = {
        (status, error_type)
        for status, name in NAMES.items()
        for error_type in types_of(error_responses([status], "Error")[name])
    }
    served = [facts for error, facts in ERROR_TABLE.items() if error is not NotServed]
    assert found == {(facts.status, facts.error_type) for facts in [*served, INTERNAL]}


def test_a_status_has_one_component_that_the_route_refers_to() -> None:
    assert error_references([401, 503], "OpenAI") == {
        "401": {"$ref": "#/components/responses/OpenAIUnauthorized"},
        "503": {"$ref": "#/components/responses/OpenAIUnavailable"},
    }
    assert list(error_responses([401, 503], "OpenAIError", "OpenAI")) == ["OpenAIUnauthorized", "OpenAIUnavailable"]


def test_the_description_is_the_meaning_or_that_of_each_type() -> None:
    responses = error_responses([401, 500], "Error")
    assert responses["Unauthorized"]["description"] == "The API key is missing or wrong."
    assert responses["InferenceFailed"]["description"] == (
        "`inference_failed`: The model failed on this input; the log has the details, under the request's ID. "
        "`internal`: The server has a bug; the log has the traceback."
    )


def test_the_body_is_the_schema_with_one_of_the_types() -> None:
    body = error_responses([408], "Error")["TooSlow"]["content"]["application/json"]["schema"]
    assert body["allOf"][0] == {"$ref": "#/components/schemas/Error"}
    assert body["allOf"][1] == {"properties": {"error_type": {"enum": ["too_slow"]}}}


def test_a_retry_and_a_key_have_headers_of_their_own() -> None:
    headers = {name: set(response["headers"]) for name, response in error_responses(NAMES, "Error").items()}
    assert headers.pop("Unavailable") == {"X-Request-ID", "Retry-After"}
    assert headers.pop("Unauthorized") == {"X-Request-ID", "WWW-Authenticate"}
    assert set().union(*headers.values()) == {"X-Request-ID"}
