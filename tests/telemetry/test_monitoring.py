"""The dashboard and the alerts ask for what the server tells: every query is compared with the code."""

import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from starlette.routing import Route

import server
from batching import outcome_of
from config import Settings, variable
from pipeline_webserver.scheduling.batch_policy import skip_reason
from pipeline_webserver.telemetry import metrics
from pipeline_webserver.web import responses

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())

PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
SHOWN: list[tuple[str, str]] = [(target["expr"], target["legendFormat"]) for p in PANELS for target in p["targets"]]
QUERIES = [query for query, _ in SHOWN] + [rule["expr"] for rule in RULES]

# What Prometheus knows by itself, and what its client tells of the process: on Linux only.
SCRAPED = {"job", "instance"}
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""], "stateset": [""]}
WORDS = {"and", "or", "unless", "bool", "offset"}


# What the server tells


def told() -> dict[str, set[str]]:
    """The name of each series with its labels, also of those that have had no event yet."""
    ours = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    labels = {metric._name: SCRAPED | set(metric._labelnames) for metric in ours}
    names = {"up": SCRAPED} | dict.fromkeys(PROCESS, SCRAPED)
    for family in REGISTRY.collect():
        for suffix in SUFFIXES[family.type] if family.name in labels else []:
            own = {"le"} if suffix == "_bucket" else {family.name} if family.type == "stateset" else set()
            names[family.name + suffix] = labels[family.name] | own
    return names


def values() -> dict[str, set[str]]:
    """The values of each label that a query may select by."""
    code = "\n".join(path.read_text() for path in ROOT.glob("*.py"))
    outcomes: list[str | None] = [outcome_of(None), *(outcome_of(error("")) for error in responses.STATUS)]
    outcomes += [skip_reason(abandoned=gone, deadline=1, now=2) for gone in (True, False)]
    return {
        "job": {"pipeline-webserver"},
        "instance": {"$instance"},  # the dashboard's choice
        "route": {route.path for route in server.app.routes if isinstance(route, Route)},
        "status": {str(status) for status, _ in responses.STATUS.values()},
        "error_type": {""} | {error_type for _, error_type in responses.STATUS.values()},
        "pipeline_state": set(metrics.STATE._states),
        "reason": set(re.findall(r'REFUSED\.labels\("(\w+)"\)', code)),
        "outcome": {word for word in outcomes if word} | set(re.findall(r'answer_everyone\(.*"(\w+)"\)', code)),
    }


TOLD = told()
VALUES = values()


# What a query asks for


def without_texts(query: str) -> str:
    return re.sub(r'"[^"]*"', '""', query)


def in_parentheses(text: str, start: int) -> str:
    """What stands in the parentheses that open at `start`."""
    depth = 0
    if text.startswith("(", start):
        for end, sign in enumerate(text[start:], start):
            depth += {"(": 1, ")": -1}.get(sign, 0)
            if depth == 0:
                return text[start + 1 : end]
    raise ValueError(f"no parentheses at {start} of: {text}")


def names_in(query: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on) \([^)]*\)", "", without_texts(query))
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - WORDS


def selected_in(query: str) -> list[tuple[str, str, list[str]]]:
    """Metric, label and values of each selector."""
    return [
        (name, label, text.split("|") if sign in {"=~", "!~"} else [text])
        for name, selectors in re.findall(r"([\w:]+)\{([^}]*)\}", query)
        for label, sign, text in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selectors)
    ]


def grouped_in(query: str) -> list[tuple[str, set[str]]]:
    """What each `by (...)` and `on (...)` is over, with its labels."""
    bare = without_texts(query)
    found = []
    for match in re.finditer(r"\b(by|on) \(([^)]*)\) ", bare):
        over = in_parentheses(bare, match.end()) if match[1] == "by" else bare
        found.append((over, set(match[2].split(", "))))
    return found


def labels_left(query: str) -> set[str]:
    """The labels of what a query results in."""
    groups = [labels for _, labels in grouped_in(query)] or [TOLD[name] for name in names_in(query)]
    return set.intersection(*groups) - {"le"}


def problems(query: str) -> list[str]:
    """What a query asks for and the server does not tell."""
    names = names_in(query)
    found = [f"no metric {name}" for name in sorted(names - set(TOLD))]
    asked = [(name, {label}) for name, label, _ in selected_in(query)]
    asked += [(name, labels) for over, labels in grouped_in(query) for name in sorted(names_in(over))]
    found += [f"no label {label} of {name}" for name, ls in asked for label in sorted(ls - TOLD.get(name, ls))]
    for _, label, wanted in selected_in(query):
        found += [f"no {label} {value!r}" for value in wanted if value not in VALUES.get(label, set())]
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_asks_for_metrics_labels_and_values_that_the_server_tells(query: str) -> None:
    assert names_in(query)
    assert problems(query) == []


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("rate(pipeline_made_up_total[5m])", ["no metric pipeline_made_up_total"]),
        ("pipeline_requests > 1", ["no metric pipeline_requests"]),
        ("1 - pipeline_queue_seconds / (up > 0)", ["no metric pipeline_queue_seconds"]),
        ('up{cause="late"}', ["no label cause of up", "no cause 'late'"]),
        ("sum by (status) (pipeline_in_house) + up", ["no label status of pipeline_in_house"]),
        ("up and on (le) pipeline_queue_seconds_bucket", ["no label le of up"]),
        ('pipeline_state{pipeline_state=~"stuck|asleep"}', ["no pipeline_state 'asleep'"]),
        ('pipeline_requests_total{error_type!="bored"}', ["no error_type 'bored'"]),
        ('pipeline_refused_total{reason="tired"}', ["no reason 'tired'"]),
        ('pipeline_inputs_total{outcome="lost"}', ["no outcome 'lost'"]),
        ('up{job="$instance"}', ["no job '$instance'"]),
    ],
)
def test_a_query_for_what_is_not_there_is_found_out(query: str, wanted: list[str]) -> None:
    assert problems(query) == wanted


def test_an_aggregation_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="no parentheses"):
        problems("sum by (status) pipeline_requests_total")


def test_the_names_are_those_of_the_samples() -> None:
    samples = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    assert {name for name in samples if name.startswith("pipeline_") and not name.endswith("_created")} <= set(TOLD)
    assert "pipeline_requests_total" in TOLD


@pytest.mark.skipif(sys.platform != "linux", reason="the client tells of the process on Linux only")
def test_the_names_of_the_process_are_those_of_the_samples() -> None:
    assert {sample.name for family in REGISTRY.collect() for sample in family.samples} >= PROCESS


@pytest.mark.parametrize(
    ("metric", "label"),
    [("pipeline_state", "pipeline_state"), ("pipeline_inputs_total", "outcome"), ("pipeline_refused_total", "reason")],
)
def test_the_values_are_those_of_the_readme(metric: str, label: str) -> None:
    (meaning,) = re.findall(rf"^\| `{metric}` \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", meaning)) == VALUES[label]


@pytest.mark.parametrize("query", QUERIES)
def test_no_ratio_divides_by_zero(query: str) -> None:
    bare = without_texts(query)
    for match in re.finditer("/ ", bare):
        assert in_parentheses(bare, match.end()).endswith(" > 0")


# The dashboard


def test_every_metric_of_ours_is_on_the_dashboard() -> None:
    names = set().union(*(names_in(query) for query, _ in SHOWN))
    shown = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names}
    ours = {metric._name for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)}
    assert ours
    assert shown - {"process_resident_memory_bytes", "process_cpu_seconds"} == ours


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_says_what_it_shows_and_in_what_unit(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert "\n" not in panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))
def test_a_panel_shows_the_instances_and_the_data_source_that_are_chosen(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        metrics_asked = re.findall(r"[\w:]+\{", target["expr"])
        assert len(metrics_asked) == target["expr"].count('{instance=~"$instance"') > 0


def test_titles_and_numbers_of_panels_are_used_once() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in PANELS:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_panels_do_not_overlap_and_leave_no_gap() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    places = [
        (x, y)
        for box in boxes
        for x, y in itertools.product(range(box["x"], box["x"] + box["w"]), range(box["y"], box["y"] + box["h"]))
    ]
    height = max(box["y"] + box["h"] for box in boxes)
    assert sorted(places) == list(itertools.product(range(24), range(height)))


@pytest.mark.parametrize(("query", "legend"), SHOWN)
def test_a_legend_names_labels_that_its_query_leaves(query: str, legend: str) -> None:
    assert legend
    assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels_left(query)


def test_the_number_of_a_state_on_the_dashboard_is_told_as_its_name() -> None:
    (panel,) = (panel for panel in PANELS if panel["type"] == "state-timeline")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    told_as = {number: option["text"] for number, option in mapping["options"].items()}
    numbered = re.findall(r'(\d+) \* pipeline_state\{[^}]*pipeline_state="(\w+)"\}', panel["targets"][0]["expr"])
    assert told_as == dict(numbered)
    assert sorted(told_as.values()) == sorted(metrics.STATE._states)


def test_the_variables_are_a_data_source_and_the_instances_of_a_metric_that_is_always_there() -> None:
    assert set(VARIABLES) == {"datasource", "instance"}
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    assert VARIABLES["instance"]["datasource"]["uid"] == "${datasource}"
    assert VARIABLES["instance"]["query"]["query"] == "label_values(pipeline_state, instance)"
    assert "instance" in TOLD["pipeline_state"]


# The alerts


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_what_has_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert len(rule["annotations"]["summary"].split()) > 2
    assert len(rule["annotations"]["description"].split()) > 10


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_tells_labels_that_its_query_leaves(rule: dict[str, Any]) -> None:
    left = {"job"} if rule["expr"].startswith("absent(") else labels_left(rule["expr"])
    assert set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))) <= left


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_names_settings_that_there_are(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"PIPELINE_\w+", rule["annotations"]["description"]))
    assert named <= {variable(name) for name in Settings.model_fields}


def test_names_of_alerts_are_used_once() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_the_states_in_which_nothing_is_answered_each_have_an_alert() -> None:
    selected = [selector for rule in RULES for selector in selected_in(rule["expr"])]
    alerted = {value for name, _, wanted in selected if name == "pipeline_state" for value in wanted}
    assert alerted == set(metrics.STATE._states) - {"serving"}
