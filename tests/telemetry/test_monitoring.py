"""The dashboard and the alerts query what the server exports: every query is compared with the code."""

import ast
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from starlette.routing import Route

import server
from config import Settings, variable
from pipeline_webserver.api.error_table import CLIENT_DISCONNECTED, ERROR_TABLE, INTERNAL
from pipeline_webserver.scheduling.batch_policy import drop_reason
from pipeline_webserver.scheduling.serving_loop import outcome_of
from pipeline_webserver.telemetry import metrics
from tests.support.fakes import FakeRunner

ROOT = Path(__file__).parents[2]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())

PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PLOTTED: list[tuple[str, str]] = [(target["expr"], target["legendFormat"]) for p in PANELS for target in p["targets"]]
QUERIES = [query for query, _ in PLOTTED] + [rule["expr"] for rule in RULES]

# The labels that Prometheus adds, and the metrics of the process that its client exports: on Linux only.
SCRAPE_LABELS = {"job", "instance"}
PROCESS_METRICS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"}
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
KEYWORDS = {"and", "or", "unless", "bool", "offset"}


# What the server exports


def exported_series() -> dict[str, set[str]]:
    """The labels of each series by its name, including series that have counted no event yet."""
    ours = [metric for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)]
    labels = {metric._name: SCRAPE_LABELS | set(metric._labelnames) for metric in ours}
    names = {"up": SCRAPE_LABELS} | dict.fromkeys(PROCESS_METRICS, SCRAPE_LABELS)
    for family in REGISTRY.collect():
        for suffix in SUFFIXES[family.type] if family.name in labels else []:
            own = {"le"} if suffix == "_bucket" else set()
            names[family.name + suffix] = labels[family.name] | own
    return names


def literals_passed_to(function: str) -> set[str]:
    """The string literals that calls in the server's code pass, such as `REJECTED.labels("deadline")`."""
    files = [ROOT / "batching.py", *(ROOT / "pipeline_webserver").rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(function)]
    literals = [argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)]
    return {literal for literal in literals if isinstance(literal, str)}


def label_values() -> dict[str, set[str]]:
    """The values of each label that a query may select."""
    errors = [*ERROR_TABLE.values(), INTERNAL, CLIENT_DISCONNECTED]
    outcomes = {outcome_of(None), *(outcome_of(error("")) for error in ERROR_TABLE)}
    dropped = {drop_reason(cancelled=cancelled, deadline=1, now=2) or "" for cancelled in (True, False)}
    routes = server.create_app(Settings(), FakeRunner()).routes
    return {
        "job": {"$job"},  # the dashboard's choice, as are the next two
        "instance": {"$instance"},
        "route": {"$route"} | {route.path for route in routes if isinstance(route, Route)},
        "status": {"200"} | {str(facts.status) for facts in errors},
        "error_type": {""} | {facts.error_type for facts in errors},
        "pipeline_state": set(metrics.STATES),
        "reason": literals_passed_to("REJECTED.labels") | literals_passed_to("Refusal"),
        "outcome": outcomes | dropped | literals_passed_to("admission.fail_all"),
    }


EXPORTED = exported_series()
VALUES = label_values()


# What a query selects


def without_strings(query: str) -> str:
    return re.sub(r'"[^"]*"', '""', query)


def in_parentheses(text: str, start: int) -> str:
    """The text in the parentheses that open at `start`."""
    depth = 0
    if text.startswith("(", start):
        for end, sign in enumerate(text[start:], start):
            depth += {"(": 1, ")": -1}.get(sign, 0)
            if depth == 0:
                return text[start + 1 : end]
    raise ValueError(f"no parentheses at {start} of: {text}")


def names_in(query: str) -> set[str]:
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on) \([^)]*\)", "", without_strings(query))
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)) - KEYWORDS


def selectors_in(query: str) -> list[tuple[str, str, list[str]]]:
    """Metric, label and values of each selector."""
    return [
        (name, label, text.split("|") if sign in {"=~", "!~"} else [text])
        for name, selectors in re.findall(r"([\w:]+)\{([^}]*)\}", query)
        for label, sign, text in re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', selectors)
    ]


def groupings_in(query: str) -> list[tuple[str, set[str]]]:
    """The operand of each `by (...)` and `on (...)`, with its labels."""
    bare = without_strings(query)
    groupings = []
    for match in re.finditer(r"\b(by|on) \(([^)]*)\) ", bare):
        operand = in_parentheses(bare, match.end()) if match[1] == "by" else bare
        groupings.append((operand, set(match[2].split(", "))))
    return groupings


def result_labels(query: str) -> set[str]:
    """The labels of a query's result: `and` leaves those on its left."""
    query = query.partition(" and on (")[0]
    groups = [labels for _, labels in groupings_in(query)] or [EXPORTED[name] for name in names_in(query)]
    return set.intersection(*groups) - {"le"}


def faults_of_query(query: str) -> list[str]:
    """What a query selects that the server does not export."""
    faults = [f"no metric {name}" for name in sorted(names_in(query) - set(EXPORTED))]
    used = [(name, {label}) for name, label, _ in selectors_in(query)]
    used += [(name, labels) for operand, labels in groupings_in(query) for name in sorted(names_in(operand))]
    faults += [f"no label {label} of {name}" for name, ls in used for label in sorted(ls - EXPORTED.get(name, ls))]
    for _, label, values in selectors_in(query):
        faults += [f"no {label} {value!r}" for value in values if value not in VALUES.get(label, set())]
    return faults


UNANSWERABLE = {
    "rate(pipeline_made_up_total[5m])": ["no metric pipeline_made_up_total"],
    "pipeline_requests > 1": ["no metric pipeline_requests"],
    "1 - pipeline_queue_seconds / (up > 0)": ["no metric pipeline_queue_seconds"],
    'up{cause="late"}': ["no label cause of up", "no cause 'late'"],
    "sum by (status) (pipeline_inputs_in_flight) + up": ["no label status of pipeline_inputs_in_flight"],
    "up and on (le) pipeline_queue_seconds_bucket": ["no label le of up"],
    'pipeline_state{pipeline_state=~"stuck|asleep"}': ["no pipeline_state 'asleep'"],
    'pipeline_requests_total{error_type!="bored"}': ["no error_type 'bored'"],
    'pipeline_rejected_total{reason="tired"}': ["no reason 'tired'"],
    'pipeline_inputs_total{outcome="lost"}': ["no outcome 'lost'"],
    'up{job="$instance"}': ["no job '$instance'"],
}


def test_every_query_selects_metrics_labels_and_values_that_the_server_exports() -> None:
    assert [query for query in QUERIES if not names_in(query)] == []
    assert {query: faults for query in QUERIES if (faults := faults_of_query(query))} == {}


def test_a_query_for_what_the_server_does_not_export_is_a_fault() -> None:
    assert {query: faults_of_query(query) for query in UNANSWERABLE} == UNANSWERABLE


def test_an_aggregation_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="no parentheses"):
        faults_of_query("sum by (status) pipeline_requests_total")


def test_the_exported_names_are_those_of_the_samples() -> None:
    samples = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    assert {name for name in samples if name.startswith("pipeline_") and not name.endswith("_created")} <= set(EXPORTED)
    assert "pipeline_requests_total" in EXPORTED


@pytest.mark.skipif(sys.platform != "linux", reason="the client exports metrics of the process on Linux only")
def test_the_names_of_the_process_metrics_are_those_of_the_samples() -> None:
    assert {sample.name for family in REGISTRY.collect() for sample in family.samples} >= PROCESS_METRICS


def test_the_label_values_are_those_of_the_documents() -> None:
    labels = {
        "pipeline_state": "pipeline_state", "pipeline_inputs_total": "outcome", "pipeline_rejected_total": "reason"
    }  # fmt: skip
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs/operate/monitoring.md").read_text(), re.MULTILINE))
    documented = {metric: set(re.findall(r"`(\w+)`", rows.get(metric, ""))) for metric in labels}
    assert documented == {metric: VALUES[label] for metric, label in labels.items()}


def test_no_ratio_divides_by_zero() -> None:
    bare = [without_strings(query) for query in QUERIES]
    divisors = [in_parentheses(query, match.end()) for query in bare for match in re.finditer("/ ", query)]
    assert divisors
    assert [divisor for divisor in divisors if not divisor.endswith(" > 0")] == []


# The dashboard


def test_every_metric_of_the_server_is_on_the_dashboard() -> None:
    names = set().union(*(names_in(query) for query, _ in PLOTTED))
    plotted = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in names}
    ours = {metric._name for metric in vars(metrics).values() if isinstance(metric, MetricWrapperBase)}
    assert ours
    assert plotted - {"process_resident_memory_bytes", "process_cpu_seconds"} == ours


def faults_of_panel(panel: dict[str, Any]) -> list[str]:
    expressions = [target["expr"] for target in panel["targets"]]
    selected = [re.findall(r"[\w:]+\{", expression) for expression in expressions]
    by_instance = [expression.count('{job=~"$job", instance=~"$instance"') for expression in expressions]
    checks = {
        "a title": bool(panel["title"]),
        "a description in one paragraph": re.fullmatch(r"[A-Z].*\.", panel["description"]) is not None,
        "a unit": bool(panel["fieldConfig"]["defaults"]["unit"]),
        "the chosen data source": panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"},
        "the chosen jobs and instances": all(
            len(names) == n > 0 for names, n in zip(selected, by_instance, strict=True)
        ),
        "a query": bool(expressions),
        "reference IDs of its own": repeated(target["refId"] for target in panel["targets"]) == [],
    }
    return [what for what, holds in checks.items() if not holds]


def repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def test_every_panel_has_a_description_a_unit_and_the_chosen_data_source_and_instances() -> None:
    assert {panel["title"]: faults for panel in PANELS if (faults := faults_of_panel(panel))} == {}
    assert repeated(panel["title"] for panel in PANELS) == []
    assert repeated(panel["id"] for panel in DASHBOARD["panels"]) == []


def test_panels_do_not_overlap_and_leave_no_gap() -> None:
    boxes = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for box in boxes
        for x, y in itertools.product(range(box["x"], box["x"] + box["w"]), range(box["y"], box["y"] + box["h"]))
    ]
    height = max(box["y"] + box["h"] for box in boxes)
    assert sorted(cells) == list(itertools.product(range(24), range(height)))


def test_every_legend_names_labels_of_its_querys_result() -> None:
    assert [query for query, legend in PLOTTED if not legend] == []
    unknown = {query: set(re.findall(r"\{\{(\w+)\}\}", legend)) - result_labels(query) for query, legend in PLOTTED}
    assert {query: labels for query, labels in unknown.items() if labels} == {}


def test_the_dashboard_shows_the_number_of_a_state_as_its_name() -> None:
    (panel,) = (panel for panel in PANELS if panel["type"] == "state-timeline")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    names = {number: option["text"] for number, option in mapping["options"].items()}
    numbered = re.findall(r'(\d+) \* pipeline_state\{[^}]*pipeline_state="(\w+)"\}', panel["targets"][0]["expr"])
    assert names == dict(numbered)
    assert sorted(names.values()) == sorted(metrics.STATES)


def test_the_variables_are_a_data_source_and_the_instances_of_a_metric_that_is_always_exported() -> None:
    assert set(VARIABLES) == {"datasource", "job", "instance", "route"}
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")
    assert {VARIABLES[name]["datasource"]["uid"] for name in ("job", "instance")} == {"${datasource}"}
    assert VARIABLES["job"]["query"]["query"] == "label_values(pipeline_state, job)"
    assert VARIABLES["instance"]["query"]["query"] == 'label_values(pipeline_state{job=~"$job"}, instance)'
    assert {"job", "instance"} <= EXPORTED["pipeline_state"]


def test_the_routes_to_choose_from_are_those_that_run_the_pipeline_and_so_are_those_of_every_alert() -> None:
    routes = server.create_app(Settings(), FakeRunner()).routes
    running = {route.path for route in routes if isinstance(route, Route) and "POST" in (route.methods or ())}
    assert set(VARIABLES["route"]["query"].split(",")) == running
    assert {option["value"] for option in VARIABLES["route"]["options"]} == {"$__all", *running}
    alerted = [set(values) for rule in RULES for _, label, values in selectors_in(rule["expr"]) if label == "route"]
    assert alerted
    assert [routes for routes in alerted if routes != running] == []


def test_no_alert_needs_a_job_of_some_name() -> None:
    assert [rule["alert"] for rule in RULES for _, label, _ in selectors_in(rule["expr"]) if label == "job"] == []


def test_latency_is_that_of_answers_and_missed_deadlines_which_quick_refusals_do_not_hide() -> None:
    statuses = [
        values
        for query in QUERIES
        for name, label, values in selectors_in(query)
        if name == "pipeline_request_seconds_bucket" and label == "status"
    ]
    assert len(statuses) == sum(query.count("pipeline_request_seconds_bucket") for query in QUERIES)
    assert {tuple(values) for values in statuses} == {("200", "504")}


# The alerts


def faults_of_rule(rule: dict[str, Any]) -> list[str]:
    if set(rule) != {"alert", "expr", "for", "labels", "annotations"}:
        return [f"has {sorted(rule)}"]
    summary, description = rule["annotations"]["summary"], rule["annotations"]["description"]
    labels = set() if rule["expr"].startswith("absent(") else result_labels(rule["expr"])
    settings = {variable(name) for name in Settings.model_fields}
    checks = {
        "a duration": re.fullmatch(r"\d+[mh]", rule["for"]) is not None,
        "a severity": rule["labels"]["severity"] in {"critical", "warning"},
        "a summary and a description": set(rule["annotations"]) == {"summary", "description"},
        "a summary of a few words": len(summary.split()) > 2,
        "a description of what to do": len(description.split()) > 10 and description.endswith("."),
        "only labels of its query's result": set(re.findall(r"\$labels\.(\w+)", summary + description)) <= labels,
        "only settings that exist": set(re.findall(r"PIPELINE_\w+", description)) <= settings,
    }
    return [what for what, holds in checks.items() if not holds]


def test_every_alert_has_a_severity_says_what_happens_and_what_to_do() -> None:
    assert {rule["alert"]: faults for rule in RULES if (faults := faults_of_rule(rule))} == {}
    assert repeated(rule["alert"] for rule in RULES) == []


def test_every_state_in_which_no_request_is_served_has_an_alert() -> None:
    selectors = [selector for rule in RULES for selector in selectors_in(rule["expr"])]
    alerted = {value for name, _, values in selectors if name == "pipeline_state" for value in values}
    assert alerted == set(metrics.STATES) - {"serving"}
