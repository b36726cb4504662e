"""One form for all lines."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from uvicorn.logging import AccessFormatter, DefaultFormatter

from pipeline_webserver.telemetry import logs

ROOT = Path(__file__).parents[2]


def clear() -> None:
    """Other tests serve by uvicorn, which leaves its loggers configured."""
    for name in (*logs.LOGGERS, logs.ACCESS, "uvicorn.access"):
        logging.getLogger(name).handlers = []
    logging.getLogger(logs.ACCESS).setLevel(logging.NOTSET)
    logging.getLogger(logs.ACCESS).propagate = logging.getLogger("uvicorn.access").propagate = True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    clear()


def leave_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own: pytest, too, attaches handlers, also to loggers that do not propagate."""
    clear()
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


def without_time(lines: str) -> str:
    return re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 ", "", lines, flags=re.MULTILINE)


def record(**extra: object) -> logging.LogRecord:
    created = logging.LogRecord("server", logging.ERROR, "", 0, "failed on %s", ("x",), None)
    created.__dict__.update(extra)
    return created


def test_json_is_one_object_a_line() -> None:
    line = logs.JsonFormatter().format(record(created=0.5, request_id="abc"))
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "ERROR",
        "logger": "server",
        "message": "failed on x",
        "request_id": "abc",
    }


def test_text_is_uvicorns_own_form_after_the_time_in_utc() -> None:
    line = logs.TextFormatter().format(record(created=0.5))
    assert line == "1970-01-01T00:00:00.500+00:00 ERROR:    failed on x"


@pytest.mark.parametrize(
    ("theirs", "is_replaced"),
    [
        (DefaultFormatter("%(levelprefix)s %(message)s"), True),
        (DefaultFormatter("%(asctime)s %(levelprefix)s %(message)s"), False),
        (logging.Formatter("%(message)s"), False),
    ],
)
def test_uvicorns_lines_have_the_time_too_unless_the_operator_has_chosen_their_form(
    theirs: logging.Formatter, is_replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_alone(monkeypatch)
    handler = logging.StreamHandler()
    handler.setFormatter(theirs)
    monkeypatch.setattr(logging.getLogger("uvicorn"), "handlers", [handler])
    logs.configure("text")
    assert isinstance(handler.formatter, logs.TextFormatter) == is_replaced


def test_each_module_that_logs_is_shown() -> None:
    ours = [*ROOT.glob("*.py"), *ROOT.glob("pipeline_webserver/**/*.py")]
    modules = {
        path.relative_to(ROOT).with_suffix("").parts[0]
        for path in ours
        if "logging.getLogger(__name__)" in path.read_text("utf-8")
    }
    assert modules <= set(logs.LOGGERS)
    assert "pipeline_webserver" in modules


@pytest.mark.parametrize("name", ["server", "batching", "pipeline_webserver", "pipeline_webserver.web.responses"])
def test_a_logger_of_the_package_is_shown_through_its_parent(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_alone(monkeypatch)
    logs.configure("text")
    logging.getLogger(name).info("hello")
    assert without_time(capsys.readouterr().err) == "INFO:     hello\n"


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        line = logs.JsonFormatter().format(record(exc_info=sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


@pytest.mark.parametrize(("form", "shown"), [("text", "INFO:     hello\n"), ("json", '"message":"hello"}\n')])
def test_our_lines_are_shown_once_from_info_on(
    form: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_alone(monkeypatch)
    logs.configure(form)  # type: ignore[arg-type]
    logs.configure(form)  # type: ignore[arg-type]
    logging.getLogger("server").info("hello")
    logging.getLogger("another.library").info("not this")
    err = capsys.readouterr().err
    assert err.endswith(shown)
    assert err.count("\n") == 1


def test_in_json_uvicorns_lines_are_objects_too() -> None:
    handler = logging.StreamHandler()
    logger = logging.getLogger("uvicorn")
    logger.addHandler(handler)
    try:
        logs.configure("json")
        assert isinstance(handler.formatter, logs.JsonFormatter)
    finally:
        logger.removeHandler(handler)


def test_fields_are_those_of_the_object() -> None:
    line = json.loads(logs.JsonFormatter().format(record(fields={"status": 200, "total_ms": 1.5})))
    assert (line["status"], line["total_ms"]) == (200, 1.5)


def test_our_line_for_a_request_takes_the_place_of_uvicorns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_alone(monkeypatch)
    uvicorns, handler = logging.getLogger("uvicorn.access"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(AccessFormatter())
    uvicorns.handlers, uvicorns.propagate = [handler], False
    logs.configure("text")
    logs.configure("text")
    uvicorns.info("uvicorn's")
    logging.getLogger(logs.ACCESS).info("ours")
    assert without_time(capsys.readouterr().out) == "INFO:     ours\n"


def test_where_uvicorn_shows_no_requests_neither_do_we(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_alone(monkeypatch)
    logging.getLogger("uvicorn.access").propagate = False  # as `--no-access-log` leaves it
    logs.configure("text")
    logging.getLogger(logs.ACCESS).info("ours")
    assert capsys.readouterr() == ("", "")


def test_where_the_operator_has_configured_logging_our_lines_go_there_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_alone(monkeypatch)
    root = logging.StreamHandler(sys.stdout)
    root.setFormatter(logging.Formatter("root %(name)s %(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [root])
    logs.configure("json")
    logging.getLogger("server").info("hello")
    logging.getLogger(logs.ACCESS).info("ours")
    logging.getLogger("uvicorn.access").info("uvicorn's")
    assert capsys.readouterr() == (f"root server hello\nroot {logs.ACCESS} ours\n", "")
