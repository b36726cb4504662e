"""The options of the command. What it serves with them is in `test_server`."""

import pytest

from pipeline_webserver.web.command_line import parse_arguments


def test_without_options_it_listens_where_uvicorn_does() -> None:
    assert vars(parse_arguments([], "")) == {
        "model": None,
        "task": None,
        "host": "127.0.0.1",
        "port": 8000,
        "check": False,
    }


def test_options_are_what_they_say() -> None:
    options = parse_arguments(
        ["--model", "a/b", "--task=fill-mask", "--host", "0.0.0.0", "--port", "80", "--check"], ""
    )
    assert vars(options) == {"model": "a/b", "task": "fill-mask", "host": "0.0.0.0", "port": 80, "check": True}


def test_help_ends_with_that_of_the_settings_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"], "  95 % of it\n  and this")
    assert stop.value.code == 0
    assert capsys.readouterr().out.endswith("\n  95 % of it\n  and this\n")


def test_a_wrong_option_is_one_line_under_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--port", "http"], "")
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith("pipeline-webserver: error: argument --port: invalid int value: 'http'\n")
