"""The alerts and the dashboard's queries as Prometheus itself computes them, the dashboard as Grafana reads it."""

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.telemetry.test_monitoring import DASHBOARD, PLOTTED, ROOT, RULES

PROMTOOL = shutil.which("promtool")
promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")

# What Grafana puts in place of its variables when all is chosen, or one.
CHOICES = [
    {"$job": ".+", "$instance": ".+", "$route": "(/|/v1/embeddings)", "$__rate_interval": "1m"},
    {"$job": "my-own", "$instance": "a:8000", "$route": "/v1/embeddings", "$__rate_interval": "4m"},
]
# Two jobs of other names: each series is scraped once a minute, for eight hours.
LABELS = 'job="my-own", instance="a:8000"'
OTHER = 'job="others", instance="b:9100"'
STEADY = {
    f"up{{{LABELS}}}": "1+0x480",
    f"up{{{OTHER}}}": "0+0x480",  # down, and none of ours
    f'pipeline_state{{{LABELS}, pipeline_state="serving"}}': "1+0x480",
    f'pipeline_state{{{LABELS}, pipeline_state="broken"}}': "0+0x480",
    f"process_start_time_seconds{{{LABELS}}}": "-3600+0x480",
    f"process_start_time_seconds{{{OTHER}}}": "0+60x480",
    f"process_resident_memory_bytes{{{LABELS}}}": "1000000000+0x480",
    f"process_resident_memory_bytes{{{OTHER}}}": "1000+1000000x480",
    f"pipeline_out_of_memory_total{{{LABELS}}}": "0+0x480",
    f'pipeline_inputs_total{{{LABELS}, outcome="answered"}}': "0+600x480",
    f'pipeline_requests_total{{{LABELS}, route="/v1/embeddings", status="200", error_type=""}}': "0+600x480",
}


def latency(route: str, status: int, seconds: float) -> dict[str, str]:
    """Six hundred requests a minute that take so long."""
    bounds = {"0.1": 0.1, "5.0": 5, "10.0": 10, "+Inf": float("inf")}
    name = f'pipeline_request_seconds_bucket{{{LABELS}, route="{route}", status="{status}", '
    return {f'{name}le="{le}"}}': f"0+{600 * (seconds <= bound)}x480" for le, bound in bounds.items()}


def requests(status: int, error_type: str) -> dict[str, str]:
    labels = f'{LABELS}, route="/v1/embeddings", status="{status}", error_type="{error_type}"'
    return {f"pipeline_requests_total{{{labels}}}": "0+60x480"}


# By alert: series that make it fire, beside the steady ones or in place of them.
FIRING: dict[str, dict[str, str]] = {
    "PipelineNotScraped": dict.fromkeys([name for name in STEADY if name.startswith("pipeline_state")], "_x480"),
    "PipelineDown": {f"up{{{LABELS}}}": "1x460 0x20"},
    "PipelineBroken": {f'pipeline_state{{{LABELS}, pipeline_state="broken"}}': "0x400 1x80"},
    "PipelineStuck": {f'pipeline_state{{{LABELS}, pipeline_state="stuck"}}': "0x400 1x80"},
    "PipelineNotServing": {f'pipeline_state{{{LABELS}, pipeline_state="draining"}}': "0x400 1x80"},
    "PipelineRestarting": {
        f"process_start_time_seconds{{{LABELS}}}": "0+0x470 100 200 300 400 500 600 700 800 900 910"
    },
    "PipelineRejecting": {f'pipeline_rejected_total{{{LABELS}, reason="queue_full"}}': "0+60x480"},
    "PipelineFailing": requests(500, "inference_failed"),
    "PipelineMissingDeadlines": requests(504, "deadline_exceeded"),
    # One answer in ten takes ten seconds; the refusals are many and quick.
    "PipelineSlow": latency("/v1/embeddings", 200, 8) | latency("/", 503, 0.001),
    "PipelineOutOfMemory": {f"pipeline_out_of_memory_total{{{LABELS}}}": "0x470 1+1x10"},
    "PipelineMemoryGrowing": {f"process_resident_memory_bytes{{{LABELS}}}": "1000000000+10000000x480"},
}
QUIET = latency("/", 200, 0.05) | latency("/", 503, 8)  # slow refusals are no answers


def expectation(series: dict[str, str], alerts: str, count: int) -> dict[str, Any]:
    """A test of promtool's: with these series, so many of these alerts fire at the end of eight hours."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": value} for name, value in (STEADY | series).items()],
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname=~"{alerts}", alertstate="firing"}})',
                "eval_time": "8h",
                "exp_samples": [{"labels": "{}", "value": count}] if count else [],
            }
        ],
    }


def run_promtool(*arguments: str | Path) -> None:
    ended = subprocess.run([str(PROMTOOL), *arguments], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.extended
@promtool
def test_each_alert_fires_for_what_it_is_for_whatever_the_jobs_name_and_not_otherwise(tmp_path: Path) -> None:
    assert set(FIRING) == {rule["alert"] for rule in RULES}
    tests = [expectation(series, alert, 1) for alert, series in FIRING.items()]
    tests.append(expectation(QUIET, ".+", 0))
    content = {"rule_files": [str(ROOT / "monitoring" / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(content))
    run_promtool("test", "rules", tmp_path / "tests.yml")


@pytest.mark.extended
@promtool
def test_every_query_of_the_dashboard_is_one_to_prometheus_with_each_choice(tmp_path: Path) -> None:
    rules: list[dict[str, str]] = []
    for choice in CHOICES:
        for query, _ in PLOTTED:
            chosen = functools.reduce(lambda text, variable: text.replace(*variable), choice.items(), query)
            assert "$" not in chosen
            rules.append({"record": f"query_{len(rules)}", "expr": chosen})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    run_promtool("check", "rules", tmp_path / "rules.yml")
    run_promtool("check", "rules", ROOT / "monitoring" / "alerts.yml")


def lost(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """What one has and the other has not, or not the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [what for name, value in ours.items() for what in lost(value, theirs.get(name), f"{path}/{name}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [what for i, pair in enumerate(zip(ours, theirs, strict=True)) for what in lost(*pair, f"{path}/{i}")]
    return [] if ours == theirs else [path]


def test_grafanas_own_types_hold_all_that_the_dashboard_says() -> None:
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins")
    plugins.register_default_plugins()
    read = json.loads(encoder.JSONEncoder().encode(models.Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, read) == []
    assert lost({**DASHBOARD, "made_up": 1}, read) == ["/made_up"]
