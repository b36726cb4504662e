"""Ray's head and Serve's proxy on 127.0.0.1: `python -m tests.support.ray_head FOLDER PORT`.

For the tests of the cluster.

Answers each line of its standard input with a line of JSON, and ends, with all that it has started, at the end of it.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

LONGEST_WAIT_S = 120


def replicas() -> list[str]:
    """The names of their actors."""
    actors = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    return sorted(name for name in actors if "SERVE_REPLICA" in name)


def states() -> dict[str, int]:
    status = serve.status().applications["default"].deployments["pipeline"]
    return {str(getattr(state, "value", state)): count for state, count in status.replica_states.items()}


def running(count: int, without: str = "") -> list[str]:
    """Wait until there are so many replicas, all running, and this one is not among them. Ray can only be asked.

    Of both: for a while after one has died, its state is still that it runs.
    """
    deadline = time.monotonic() + LONGEST_WAIT_S
    while states() != {"RUNNING": count} or len(replicas()) != count or without in replicas():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{states()}, {replicas()}")
        time.sleep(0.1)
    return replicas()


def deploy(builder: str, environment: dict[str, str]) -> list[str]:
    """Run what `serve run` would, with these variables."""
    for name in [name for name in os.environ if name.startswith("PIPELINE_")]:
        del os.environ[name]
    os.environ.update(environment)
    module, _, function = builder.partition(":")
    serve.run(getattr(importlib.import_module(module), function)({}))
    return replicas()


def kill(name: str) -> None:
    ray.kill(ray.get_actor(name, namespace="serve"))


COMMANDS: dict[str, Callable[..., Any]] = {"running": running, "deploy": deploy, "kill": kill}


def main() -> None:
    folder, port = sys.argv[1:]
    ray.init(
        num_cpus=2,
        object_store_memory=100_000_000,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
        namespace="serve",
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    print(json.dumps(ray.get_runtime_context().gcs_address), flush=True)  # noqa: T201 - the answer to the start
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[command](*arguments)), flush=True)  # noqa: T201
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
