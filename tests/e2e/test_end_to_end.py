"""The big promises, each once against real processes, real sockets and the real bundled model.

Nothing here depends on how fast the machine is: a forward pass that has to last waits for the test.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import huggingface_hub
import pytest
import transformers
from huggingface_hub import InferenceClient

from pipeline_webserver.inference.loading import BUNDLED_MODEL
from tests.support.compare import assert_same
from tests.support.forkserver import ForkServer
from tests.support.hub import running_hub
from tests.support.models import make_model
from tests.support.process import LONGEST_WAIT_S, QUICK, ROOT, Process, serving, start_uvicorn, until

HOLD = "hold [MASK]"
CLIENTS = 16
IN_FLIGHT = "pipeline_inputs_in_flight"


class Hold:
    """Where a forward pass of the faulty app reports that it has begun, and waits."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(60)
        self.port = str(self.listener.getsockname()[1])
        self.held: list[socket.socket] = []

    def begun(self) -> socket.socket:
        """Return when a pass has begun; it goes on when this connection is closed."""
        connection, _ = self.listener.accept()
        self.held.append(connection)
        return connection


@pytest.fixture(scope="module")
def hold() -> Iterator[Hold]:
    made = Hold()
    yield made
    for opened in (made.listener, *made.held):
        opened.close()


# The processes of the faulty app, each with settings of its own.
PROCESSES: dict[str, dict[str, str]] = {
    "faulty": {"PIPELINE_MAX_REQUESTS": "3", "PIPELINE_MAX_INPUTS": "2"},
    "deadline": {"PIPELINE_REQUEST_TIMEOUT_S": "2"},
    "terminated": {"PIPELINE_MAX_BATCH_SIZE": "2"},
    "stalled": {"PIPELINE_DRAIN_TIMEOUT_S": "0.2"},
    "broken": {"PIPELINE_MAX_BATCH_SIZE": "1"},
    "kill": {"PIPELINE_EXIT_ON_FAILURE": "true", "PIPELINE_MAX_BATCH_SIZE": "1"},
    "hang": {"PIPELINE_EXIT_ON_FAILURE": "true", "PIPELINE_MAX_BATCH_SIZE": "1", "PIPELINE_REQUEST_TIMEOUT_S": "3"},
}


@pytest.fixture(scope="module")
def optimized() -> Iterator[Process]:
    """The command of the README, with one thread; begun first, because imports and optimizations take longest."""
    process = start_uvicorn(PIPELINE_THREADS="1")
    yield process
    process.end()


@pytest.fixture(scope="module")
def started(hold: Hold, fork_server: ForkServer, optimized: Process) -> Iterator[dict[str, Process]]:
    """All of them, begun at once: each loads the model while the tests before its own run."""
    with ExitStack() as stack:
        processes = {}
        for name, settings in PROCESSES.items():
            app = "tests.support.faulty_app:app"
            processes[name] = start_uvicorn(app, fork_server, FAULTY_APP_HOLD=hold.port, **settings)
            stack.callback(processes[name].end)
        yield processes


@pytest.fixture
def process_of(started: dict[str, Process]) -> Callable[[str], Process]:
    def get(name: str) -> Process:
        started[name].wait_until_serving()
        return started[name]

    return get


@pytest.fixture
def faulty(process_of: Callable[[str], Process]) -> Process:
    return process_of("faulty")


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CLIENTS) as executor:
        yield executor


def in_flight(process: Process, count: int) -> None:
    """Wait until so many inputs are in flight."""
    until(lambda: process.metric(IN_FLIGHT) == count)


# What goes wrong


def test_the_event_loop_answers_while_a_forward_pass_runs(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    held = background.submit(faulty.post, "hold work [MASK]")
    held_pass = hold.begun()
    for path in ("/health", "/ready", "/info", "/metrics"):
        assert faulty.get(path).status_code == 200
    assert not held.done()
    held_pass.close()
    assert held.result().status_code == 200


def test_a_server_at_capacity_rejects_at_once_stays_healthy_and_answers_what_is_in_flight(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    admitted = [background.submit(faulty.post, HOLD)]
    held_pass = hold.begun()
    admitted += [background.submit(faulty.post, "a [MASK]") for _ in range(2)]
    in_flight(faulty, 3)
    rejected = faulty.post("b [MASK]")
    assert (rejected.status_code, rejected.json()["error_type"]) == (503, "overloaded")
    assert rejected.json()["error"] == "The server is full: 3 of 3 inputs are in flight."
    assert int(rejected.headers["retry-after"]) >= 1
    assert faulty.metric('pipeline_rejected_total{reason="queue_full"}') == 1
    assert [faulty.get(path).status_code for path in ("/health", "/ready")] == [200, 200]
    held_pass.close()
    assert [future.result().status_code for future in admitted] == [200, 200, 200]
    assert faulty.post("b [MASK]").status_code == 200


def test_the_inputs_of_a_client_that_closes_its_socket_are_skipped_and_counted(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    before = faulty.metric('pipeline_inputs_total{outcome="cancelled"}')
    batches = faulty.metric("pipeline_batch_size_sum")
    held = background.submit(faulty.post, HOLD)
    held_pass = hold.begun()
    with faulty.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\na [MASK]")
        in_flight(faulty, 2)
    disconnected = 'pipeline_requests_total{error_type="client_disconnected",route="/",status="499"}'
    until(lambda: faulty.metric(disconnected) == 1)
    held_pass.close()
    assert held.result().status_code == 200
    in_flight(faulty, 0)
    assert faulty.metric('pipeline_inputs_total{outcome="cancelled"}') == before + 1
    assert faulty.metric("pipeline_batch_size_sum") == batches + 1  # the held one alone


def test_one_poisonous_input_fails_alone_and_its_secrets_stay_in_the_log(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    held = background.submit(faulty.post, HOLD)  # so that the next two share a batch
    held_pass = hold.begun()
    good, bad = background.submit(faulty.post, "a [MASK]"), background.submit(faulty.post, "poison [MASK]")
    in_flight(faulty, 3)
    held_pass.close()
    assert held.result().status_code == 200
    assert good.result().status_code == 200
    assert good.result().headers["server-timing"].endswith('batch;desc="2"')
    assert (bad.result().status_code, bad.result().json()["error_type"]) == (500, "inference_failed")
    assert "secret" not in bad.result().text
    faulty.wait_for_line("a secret of the model")
    assert faulty.get("/health").status_code == 200


def test_at_the_deadline_the_answer_is_a_504_and_an_input_whose_batch_has_not_begun_is_skipped(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("deadline")
    held = background.submit(process.post, HOLD)
    held_pass = hold.begun()
    waiting = process.post("a [MASK]")
    assert (waiting.status_code, waiting.json()["error_type"]) == (504, "deadline_exceeded")
    assert held.result().status_code == 504
    # The pass has been running for longer than any request may take.
    process.wait_for_line("Stalled: The model has been busy with one pass for 2 s.")
    assert process.get("/health").status_code == 503
    held_pass.close()
    process.wait_for_line("The stalled call goes on.")
    in_flight(process, 0)
    skipped = [process.metric(f'pipeline_inputs_total{{outcome="{why}"}}') for why in ("cancelled", "expired")]
    assert sum(skipped) == 1
    assert process.post("a [MASK]").status_code == 200
    assert process.get("/health").status_code == 200


# The end


def is_refused(process: Process) -> bool:
    """Whether a connection is; one that the closing listener resets counts too."""
    try:
        process.connect().close()
    except (ConnectionRefusedError, ConnectionResetError):
        return True
    return False


def test_sigterm_answers_everything_that_was_admitted_and_exits_with_0(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("terminated")
    admitted = [background.submit(process.post, HOLD)]
    held_pass = hold.begun()
    admitted += [background.submit(process.post, f"{word} [MASK]") for word in "abcdefg"]
    in_flight(process, 8)
    process.terminate()
    process.wait_for_line("Shutting down")
    until(lambda: is_refused(process))
    held_pass.close()
    assert [future.result().status_code for future in admitted] == [200] * 8
    assert process.exit_status() == 0
    assert not any("Traceback" in line for line in process.log)


def test_neither_a_stuck_pass_nor_a_stalled_client_keeps_the_server_from_ending(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("stalled")
    held = background.submit(process.post, HOLD)
    held_pass = hold.begun()
    with process.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\na")
        assert process.get("/health").status_code == 200
        process.terminate()
        assert (held.result().status_code, held.result().json()["error_type"]) == (503, "draining")
        assert process.exit_status() == 0  # though the pass still runs, and the client still sends
    held_pass.close()


def test_a_model_in_which_everything_fails_turns_health_red_and_answers_every_request(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("broken")
    admitted = [background.submit(process.post, "hold kill [MASK]")]
    held_pass = hold.begun()
    admitted += [background.submit(process.post, "a [MASK]") for _ in range(3)]
    in_flight(process, 4)
    held_pass.close()
    for future in admitted:
        assert (future.result().status_code, future.result().json()["error_type"]) == (503, "unavailable")
    for path in ("/health", "/ready"):
        assert process.get(path).status_code == 503
    process.terminate()
    assert process.exit_status() == 0


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_for_a_supervisor_a_broken_or_stuck_server_answers_every_request_and_ends_with_status_1(
    fault: str, process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of(fault)
    admitted = [background.submit(process.post, f"hold {fault} [MASK]")]
    held_pass = hold.begun()
    admitted += [background.submit(process.post, "a [MASK]") for _ in range(3)]
    in_flight(process, 4)
    if fault == "kill":
        held_pass.close()
    answers = [future.result() for future in admitted]
    # The first may be at their own deadline just when the model is found to be stuck.
    assert {(answer.status_code, answer.json()["error_type"]) for answer in answers} <= {
        (503, "unavailable"),
        *([(504, "deadline_exceeded")] if fault == "hang" else []),
    }
    assert process.exit_status() == 1
    assert any("CRITICAL" in line for line in process.log)
    held_pass.close()


# The start


def assert_ends_with_one_line(process: Process, words: str) -> None:
    assert process.exit_status() not in {0, None}
    assert not any("Traceback" in line for line in process.log), process.log
    assert len([line for line in process.log if words in line]) == 1, process.log


def test_a_start_that_cannot_succeed_ends_with_one_clear_line_and_a_status_that_says_so(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    unsaid, untrained = make_model("fill-mask", tmp_path / "unsaid"), make_model("fill-mask", tmp_path / "untrained")
    config = json.loads((unsaid / "config.json").read_text())
    (unsaid / "config.json").write_text(json.dumps({**config, "architectures": None}))
    cases: list[tuple[dict[str, str], str]] = [
        ({"PIPELINE_MODLE": "x"}, "PIPELINE_MODLE is not a setting; did you mean PIPELINE_MODEL?"),
        ({"PIPELINE_MODEL": "/no/such"}, "the folder '/no/such' does not exist; check PIPELINE_MODEL"),
        ({"PIPELINE_MODEL": str(unsaid)}, "(architectures: none); set PIPELINE_TASK"),
        ({"PIPELINE_MODEL": str(untrained), "PIPELINE_TASK": "ner"}, "has no trained weights for the task"),
        ({"PIPELINE_MODEL": "a/b"}, "HF_HUB_OFFLINE is set and 'a/b' is not in the local cache; check the network"),
    ]
    processes = [(start_uvicorn("server:app", fork_server, **environment), words) for environment, words in cases]
    for process, words in processes:
        assert_ends_with_one_line(process, words)


@pytest.mark.extended
def test_a_start_is_checked_by_the_command_with_a_report_and_a_status(tmp_path: Path) -> None:
    folder = make_model("text-classification", tmp_path / "model")
    command = [sys.executable, "-c", "import server; server.main()", "--check", "--model", str(folder)]
    checks = [
        subprocess.Popen(
            [*command, *task], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=env
        )
        for env in [{**os.environ, **QUICK}]
        for task in ([], ["--task", "fill-mask"])
    ]
    (report, log), (nothing, why) = (process.communicate(timeout=LONGEST_WAIT_S) for process in checks)
    assert [process.returncode for process in checks] == [0, 1]
    info = json.loads(report)
    assert (info["task"], info["task_source"]) == ("text-classification", "architectures in config.json")
    assert f"Loading {folder}." in log
    assert nothing == ""
    assert why.splitlines()[-1].startswith(f"pipeline-webserver: '{folder}' has no trained weights")


@pytest.mark.extended
def test_a_model_of_the_hub_is_fetched_and_served(tmp_path: Path) -> None:
    with running_hub({"bert-base-uncased": Path(BUNDLED_MODEL)}) as (url, paths):
        environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        with serving(PIPELINE_MODEL="bert-base-uncased", **environment) as process:
            assert process.post("test [MASK]").status_code == 200
            info = process.get("/info").json()
            assert (info["model"], info["name"], info["task"]) == (
                "bert-base-uncased",
                "bert-base-uncased",
                "fill-mask",
            )
        assert any(path.endswith("/model.safetensors") for path in paths)


@pytest.mark.extended
def test_a_hub_without_the_model_and_one_that_cannot_be_reached_end_the_start_with_one_clear_line(
    tmp_path: Path,
) -> None:
    with socket.socket() as taken, running_hub({}) as (hub, _):
        taken.bind(("127.0.0.1", 0))  # and does not listen
        silent = f"http://127.0.0.1:{taken.getsockname()[1]}"
        cases = [
            (silent, "a/b", f"cannot reach {silent} and 'a/b' is not in the local cache; check the network"),
            (hub, "a/missing", f"there is no model 'a/missing' at {hub}"),
        ]
        environment = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        processes = [
            (start_uvicorn(PIPELINE_MODEL=model, HF_ENDPOINT=url, **environment), words) for url, model, words in cases
        ]
        for process, words in processes:
            assert_ends_with_one_line(process, words)


# The main job


def assert_answers_as_the_pipeline(process: Process) -> None:
    pipe = transformers.pipeline("fill-mask", model=BUNDLED_MODEL, dtype="float32")
    for text in ("test [MASK]", "paris is the capital of [MASK].", "the [MASK] of [MASK] is tall."):
        assert_same(process.post(text).json(), pipe(text))


def test_the_bundled_model_answers_raw_text_with_exactly_what_the_pipeline_returns(optimized: Process) -> None:
    optimized.wait_until_serving()
    assert_answers_as_the_pipeline(optimized)


def test_many_clients_at_once_each_get_their_own_answer(optimized: Process, background: ThreadPoolExecutor) -> None:
    optimized.wait_until_serving()
    words = ["sun", "sea", "dog", "king"] * 16
    texts = [f"the {word} is {'very ' * length}[MASK]." for length, word in enumerate(words)]
    alone = [optimized.post(text).json() for text in texts[:4]]
    responses = list(background.map(optimized.post, texts))
    for text, response in zip(texts, responses, strict=True):
        prefix = text.partition(" [MASK]")[0]
        assert all(item["sequence"].startswith(prefix) for item in response.json())
    for one, response in zip(alone, responses[:4], strict=True):
        assert [item["token"] for item in one] == [item["token"] for item in response.json()]


def test_sigterm_ends_the_command_of_the_readme_with_0(optimized: Process) -> None:
    optimized.wait_until_serving()
    optimized.terminate()
    assert optimized.exit_status() == 0


def test_huggingface_hubs_client_fills_masks(bundled: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client refuses every address, ours too, while the hub is switched off.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    (first,) = InferenceClient(model=bundled.url).fill_mask("albert einstein was a [MASK] physicist.", top_k=1)
    assert first.token_str == "german"


@pytest.mark.extended
def test_with_every_setting_as_it_comes_the_answers_are_the_pipelines_too() -> None:
    with serving() as process:
        assert_answers_as_the_pipeline(process)
