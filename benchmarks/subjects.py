"""The subjects: what is measured, under which name, and how each is started.

Owns that list. It must never know workloads or figures.
"""

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.models import Model
from benchmarks.processes import Server, Worker

OURS = "this server"
OURS_BFLOAT16 = "this server, bfloat16"
NAIVE = "naive server"
NAIVE_BATCHING = "naive server, batching"
DIRECT = "pipe(text), no server"
OFFLINE = "this server's engine, no server"

SERVERS = (OURS, OURS_BFLOAT16, NAIVE, NAIVE_BATCHING)
APPS = {
    OURS: "server:app",
    OURS_BFLOAT16: "server:app",
    NAIVE: "benchmarks.naive:unbatched",
    NAIVE_BATCHING: "benchmarks.naive:batched",
}


@dataclass(slots=True)
class Subjects:
    """The processes of one model, by name."""

    servers: dict[str, Server] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)


def server(name: str, model: Model, folder: Path, logs: Path) -> Server:
    """One of the servers, with its model; not started yet."""
    prefix = "PIPELINE" if name in {OURS, OURS_BFLOAT16} else "BENCHMARK"
    environment = {f"{prefix}_MODEL": str(folder), f"{prefix}_TASK": model.task}
    if name == OURS_BFLOAT16:
        environment["PIPELINE_DTYPE"] = "bfloat16"
    return Server(APPS[name], environment, logs / f"{model.name}, {name}.log")


def subjects(model: Model, folder: Path, logs: Path, *, bfloat16: bool) -> Subjects:
    names = [name for name in SERVERS if bfloat16 or name != OURS_BFLOAT16]
    arguments = (str(folder), model.task)
    return Subjects(
        servers={name: server(name, model, folder, logs) for name in names},
        workers={
            DIRECT: Worker("benchmarks.direct", arguments, logs / f"{model.name}, direct.log"),
            OFFLINE: Worker("benchmarks.offline", arguments, logs / f"{model.name}, offline.log"),
        },
    )
