"""What the server says of itself."""

from config import Settings
from pipeline_webserver import VERSION
from pipeline_webserver.api import about


def test_the_model_the_limits_and_the_version_are_told() -> None:
    told = about.info(Settings(max_inputs=7), {"model": "m"}, max_body_bytes=5)
    assert (told["model"], told["version"]) == ("m", VERSION)
    assert isinstance(limits := told["limits"], dict)
    assert (limits["max_inputs"], limits["max_body_bytes"]) == (7, 5)
    assert set(limits) == {*about.LIMITS, "max_body_bytes"}


def test_no_secret_is_told() -> None:
    assert "api_key" not in about.LIMITS
    assert "hidden" not in str(about.info(Settings.model_validate({"api_key": "hidden"}), {}))


def test_the_api_is_that_of_the_task_with_a_key_if_there_is_one() -> None:
    described = {"model": "m", "embedding": None}
    document = about.api(Settings.model_validate({"api_key": "k"}), "text-classification", described)
    assert document["info"]["title"] == "text-classification with m"  # type: ignore[index]
    assert "securitySchemes" in document["components"]  # type: ignore[operator]


def test_metrics_are_prometheus_text() -> None:
    text, media_type = about.metrics()
    assert media_type.startswith("text/plain")
    assert b"pipeline_in_house" in text
