"""What `/metrics` answers: the metrics of this process, or of all workers together.

It must never know what they mean.
"""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from pipeline_webserver.telemetry.shared_folder import VARIABLE, is_running

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Of these the workers together have not the sum, but the last start and the least limit.
LATEST, LEAST = "process_start_time_seconds", "process_max_fds"


def latest() -> bytes:
    """The text of a scrape."""
    folder = os.environ.get(VARIABLE)
    return generate_latest(_of_workers(Path(folder)) if folder else REGISTRY)


def _of_workers(folder: Path) -> CollectorRegistry:
    """The metrics in this folder, but for the gauges of dead workers, whose counts remain."""
    alive = set()
    for pid in {int(found[1]) for file in folder.glob("*.db") if (found := re.search(r"_(\d+)\.db$", file.name))}:
        if is_running(pid):
            alive.add(pid)
        else:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    registry.register(ProcessesCollector(alive))
    return registry


class ProcessesCollector(Collector):
    """Memory, CPU time and files of several processes together."""

    def __init__(self, pids: set[int]) -> None:
        self.pids = pids

    def collect(self) -> Iterator[Metric]:
        families: dict[str, list[Metric]] = {}
        for pid in sorted(self.pids):
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                families.setdefault(metric.name, []).append(metric)
        for metrics in families.values():
            yield _together(metrics)


def _together(metrics: list[Metric]) -> Metric:
    combine = {LATEST: max, LEAST: min}.get(metrics[0].name, sum)
    (sample,) = metrics[0].samples
    whole = Metric(metrics[0].name, metrics[0].documentation, metrics[0].type)
    whole.add_sample(sample.name, sample.labels, combine(metric.samples[0].value for metric in metrics))
    return whole
