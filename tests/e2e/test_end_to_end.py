"""The big promises, each once against real processes, real sockets and the real bundled model.

Nothing here depends on how fast the machine is: a forward pass that has to last waits for the test.
"""

import json
import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
import transformers
from huggingface_hub import InferenceClient

from config import usable_cores
from pipeline_webserver.inference.loading import BUNDLED_MODEL
from tests.support.compare import assert_same
from tests.support.hub import running_hub
from tests.support.models import make_model
from tests.support.process import Process, serving

HOLD = "hold [MASK]"


class Hold:
    """Where a forward pass of the faulty app reports that it has begun, and waits."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(30)
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
    "deadline": {"PIPELINE_REQUEST_TIMEOUT_S": "4"},
    "terminated": {"PIPELINE_MAX_BATCH_SIZE": "2"},
    "stalled": {"PIPELINE_DRAIN_TIMEOUT_S": "0.2"},
    "broken": {"PIPELINE_MAX_BATCH_SIZE": "1"},
    "kill": {"PIPELINE_EXIT_ON_FAILURE": "true", "PIPELINE_MAX_BATCH_SIZE": "1"},
    "hang": {"PIPELINE_EXIT_ON_FAILURE": "true", "PIPELINE_MAX_BATCH_SIZE": "1", "PIPELINE_REQUEST_TIMEOUT_S": "3"},
}


@pytest.fixture(scope="module", autouse=True)
def started(hold: Hold) -> Iterator[dict[str, Process]]:
    """All of them, begun at once: to start one takes longer than most tests, and nearly all of it is imports."""
    with ExitStack() as stack:
        processes = {}
        for name, settings in PROCESSES.items():
            processes[name] = Process("tests.support.faulty_app:app", FAULTY_APP_HOLD=hold.port, **settings)
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
    with ThreadPoolExecutor(max_workers=64) as executor:
        yield executor


@pytest.fixture
def hub_client(monkeypatch: pytest.MonkeyPatch) -> type[InferenceClient]:
    """The client refuses every address, ours too, while the hub is switched off."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return InferenceClient


def post(process: Process, text: str) -> httpx2.Response:
    return httpx2.post(process.url, content=text.encode(), timeout=60)


def metric(process: Process, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (.*)$", httpx2.get(f"{process.url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until(condition: Callable[[], bool]) -> None:
    """Ask again until it is so; each question is a round trip, so this is bounded without a clock."""
    for _ in range(3_000):
        if condition():
            return
    raise AssertionError("it never came to be")


# The main job


def test_the_bundled_model_answers_raw_text_with_exactly_what_the_pipeline_returns(bundled: Process) -> None:
    pipe = transformers.pipeline("fill-mask", model=BUNDLED_MODEL, dtype="float32")
    for text in ("test [MASK]", "paris is the capital of [MASK].", "the [MASK] of [MASK] is tall."):
        assert_same(post(bundled, text).json(), pipe(text), 1e-6)


def test_many_clients_at_once_each_get_their_own_answer(bundled: Process, background: ThreadPoolExecutor) -> None:
    texts = [
        f"the {word} is {'very ' * length}[MASK]." for length, word in enumerate(["sun", "sea", "dog", "king"] * 16)
    ]
    alone = [post(bundled, text).json() for text in texts[:4]]
    responses = list(background.map(lambda text: post(bundled, text), texts))
    for text, response in zip(texts, responses, strict=True):
        prefix = text.partition(" [MASK]")[0]
        assert all(item["sequence"].startswith(prefix) for item in response.json())
    for one, response in zip(alone, responses[:4], strict=True):
        assert [item["token"] for item in one] == [item["token"] for item in response.json()]


def test_huggingface_hubs_client_fills_masks(bundled: Process, hub_client: type[InferenceClient]) -> None:
    (first,) = hub_client(model=bundled.url).fill_mask("albert einstein was a [MASK] physicist.", top_k=1)
    assert first.token_str == "german"


# What goes wrong


def test_the_event_loop_answers_while_a_forward_pass_runs(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    held = background.submit(post, faulty, HOLD)
    held_pass = hold.begun()
    for path in ("/health", "/ready", "/info", "/metrics"):
        assert httpx2.get(faulty.url + path).status_code == 200
    assert not held.done()
    held_pass.close()
    assert held.result().status_code == 200


def test_a_full_house_refuses_at_once_stays_healthy_and_answers_who_is_in(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    inside = [background.submit(post, faulty, HOLD)]
    held_pass = hold.begun()
    inside += [background.submit(post, faulty, "a [MASK]") for _ in range(2)]
    until(lambda: metric(faulty, "pipeline_in_house") == 3)
    refused = post(faulty, "b [MASK]")
    assert (refused.status_code, refused.json()["error_type"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert [httpx2.get(faulty.url + path).status_code for path in ("/health", "/ready")] == [200, 200]
    held_pass.close()
    assert [future.result().status_code for future in inside] == [200, 200, 200]
    assert post(faulty, "b [MASK]").status_code == 200


def test_the_work_of_a_client_that_closes_its_socket_is_skipped_and_counted(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    before = metric(faulty, 'pipeline_inputs_total{outcome="abandoned"}')
    batches = metric(faulty, "pipeline_batch_size_sum")
    held = background.submit(post, faulty, HOLD)
    held_pass = hold.begun()
    with faulty.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\na [MASK]")
        until(lambda: metric(faulty, "pipeline_in_house") == 2)
    until(lambda: metric(faulty, 'pipeline_requests_total{error_type="hung_up",route="/",status="499"}') == 1)
    held_pass.close()
    assert held.result().status_code == 200
    until(lambda: metric(faulty, "pipeline_in_house") == 0)
    assert metric(faulty, 'pipeline_inputs_total{outcome="abandoned"}') == before + 1
    assert metric(faulty, "pipeline_batch_size_sum") == batches + 1  # the held one alone


def test_one_poisonous_input_fails_alone_and_its_secrets_stay_in_the_log(
    faulty: Process, hold: Hold, background: ThreadPoolExecutor
) -> None:
    held = background.submit(post, faulty, HOLD)  # so that the next two share a batch
    held_pass = hold.begun()
    good, bad = background.submit(post, faulty, "a [MASK]"), background.submit(post, faulty, "poison [MASK]")
    until(lambda: metric(faulty, "pipeline_in_house") == 3)
    held_pass.close()
    assert held.result().status_code == 200
    assert good.result().status_code == 200
    assert good.result().headers["server-timing"].endswith('batch;desc="2"')
    assert (bad.result().status_code, bad.result().json()["error_type"]) == (500, "inference_failed")
    assert "secret" not in bad.result().text
    assert any("a secret of the model" in line for line in faulty.log)
    assert httpx2.get(f"{faulty.url}/health").status_code == 200


def test_at_the_deadline_the_answer_is_a_504_and_work_not_begun_is_skipped(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("deadline")
    held = background.submit(post, process, HOLD)
    held_pass = hold.begun()
    waiting = post(process, "a [MASK]")
    assert (waiting.status_code, waiting.json()["error_type"]) == (504, "deadline_exceeded")
    assert held.result().status_code == 504
    until(lambda: httpx2.get(f"{process.url}/health").status_code == 503)  # stuck for longer than its deadline
    held_pass.close()
    until(lambda: metric(process, "pipeline_in_house") == 0)
    skipped = [metric(process, f'pipeline_inputs_total{{outcome="{why}"}}') for why in ("abandoned", "expired")]
    assert sum(skipped) == 1
    assert post(process, "a [MASK]").status_code == 200
    assert httpx2.get(f"{process.url}/health").status_code == 200


def test_sigterm_answers_everything_that_was_accepted_and_exits_with_0(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("terminated")
    accepted = [background.submit(post, process, HOLD)]
    held_pass = hold.begun()
    accepted += [background.submit(post, process, f"{word} [MASK]") for word in "abcdefg"]
    until(lambda: metric(process, "pipeline_in_house") == 8)
    process.terminate()
    process.wait_for_line("Shutting down")
    with pytest.raises(httpx2.TransportError):
        post(process, "too late [MASK]")
    held_pass.close()
    assert [future.result().status_code for future in accepted] == [200] * 8
    assert process.exit_status() == 0
    assert not any("Traceback" in line for line in process.log)


def test_workers_share_the_cores_and_all_of_them_end_with_the_server(background: ThreadPoolExecutor) -> None:
    threads = max(1, usable_cores() // 2)
    with serving("server:app --workers 2") as process:
        process.wait_for_line(rf"Serving fill-mask .* threads: {threads}$", count=2)
        texts = [f"albert einstein was a [MASK] physicist of {year}." for year in range(1900, 1920)]
        replies = list(background.map(lambda text: post(process, text), texts))
        for text, reply in zip(texts, replies, strict=True):
            assert_same(reply.json(), post(process, text).json())
        process.terminate()
        assert process.exit_status() == 0
        assert sum("Application shutdown complete." in line for line in process.log) == 2


def test_neither_a_stuck_pass_nor_a_stalled_client_keeps_the_server_from_ending(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("stalled")
    held = background.submit(post, process, HOLD)
    held_pass = hold.begun()
    with process.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\na")
        assert httpx2.get(f"{process.url}/health").status_code == 200
        process.terminate()
        assert (held.result().status_code, held.result().json()["error_type"]) == (503, "draining")
        assert process.exit_status() == 0  # though the pass still runs, and the client still sends
    held_pass.close()


def test_a_model_in_which_everything_fails_turns_health_red_and_answers_everyone(
    process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of("broken")
    held: list[Future[httpx2.Response]] = [background.submit(post, process, "hold kill [MASK]")]
    held_pass = hold.begun()
    held += [background.submit(post, process, "a [MASK]") for _ in range(3)]
    until(lambda: metric(process, "pipeline_in_house") == 4)
    held_pass.close()
    for future in held:
        assert (future.result().status_code, future.result().json()["error_type"]) == (503, "unavailable")
    for path in ("/health", "/ready"):
        assert httpx2.get(process.url + path).status_code == 503
    process.terminate()
    assert process.exit_status() == 0


@pytest.mark.parametrize("fault", ["kill", "hang"])
def test_for_a_supervisor_a_broken_or_stuck_server_answers_everyone_and_ends_with_status_1(
    fault: str, process_of: Callable[[str], Process], hold: Hold, background: ThreadPoolExecutor
) -> None:
    process = process_of(fault)
    inside = [background.submit(post, process, f"hold {fault} [MASK]")]
    held_pass = hold.begun()
    inside += [background.submit(post, process, "a [MASK]") for _ in range(3)]
    until(lambda: metric(process, "pipeline_in_house") == 4)
    if fault == "kill":
        held_pass.close()
    answers = [future.result() for future in inside]
    # Those who came first may be at their own deadline just when the model is found to be stuck.
    assert {(answer.status_code, answer.json()["error_type"]) for answer in answers} <= {
        (503, "unavailable"),
        *([(504, "deadline_exceeded")] if fault == "hang" else []),
    }
    assert process.exit_status() == 1
    assert any("CRITICAL" in line for line in process.log)
    held_pass.close()


# The start


def test_a_model_of_the_hub_is_fetched_and_served(tmp_path: Path) -> None:
    with running_hub({"bert-base-uncased": Path(BUNDLED_MODEL)}) as (url, asked):
        environment = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        with serving(PIPELINE_MODEL="bert-base-uncased", **environment) as process:
            assert post(process, "test [MASK]").status_code == 200
            info = httpx2.get(f"{process.url}/info").json()
            assert (info["model"], info["task"]) == ("bert-base-uncased", "fill-mask")
        assert any(path.endswith("/model.safetensors") for path in asked)


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """An address that nobody answers at: taken, but not listened at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module", autouse=True)
def unreachable(nobody: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A start that asks a hub which does not answer; begun early, for it tries again for half a minute."""
    cache = str(tmp_path_factory.mktemp("cache"))
    process = Process(PIPELINE_MODEL="a/b", HF_HUB_OFFLINE="0", HF_ENDPOINT=nobody, HF_HOME=cache)
    yield process
    process.end()


def assert_ends_with_one_line(process: Process, words: str) -> None:
    assert process.exit_status() not in {0, None}
    assert not any("Traceback" in line for line in process.log), process.log
    assert len([line for line in process.log if words in line]) == 1, process.log


def test_a_hub_that_cannot_be_reached_ends_the_start_with_one_clear_line(unreachable: Process, nobody: str) -> None:
    assert_ends_with_one_line(unreachable, f"cannot reach {nobody} and 'a/b' is not in the local cache; check the net")


@pytest.fixture(scope="module", autouse=True)
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Process, str]]]:
    """Starts that cannot succeed, with the words that each should end with; begun early, since imports take long."""
    folder = tmp_path_factory.mktemp("hopeless")
    make_model("fill-mask", folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "architectures": None}))
    with running_hub({}) as (hub, _), ExitStack() as stack:
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub, "HF_HOME": str(folder / "cache")}
        cases: list[tuple[dict[str, str], str]] = [
            ({"PIPELINE_MODLE": "x"}, "PIPELINE_MODLE is not a setting; did you mean PIPELINE_MODEL?"),
            ({"PIPELINE_MODEL": "/no/such"}, "the folder '/no/such' does not exist; check PIPELINE_MODEL"),
            ({"PIPELINE_MODEL": str(folder / "model")}, "(architectures: none); set PIPELINE_TASK"),
            ({"PIPELINE_MODEL": "nobody/nothing", **online}, f"there is no model 'nobody/nothing' at {hub}"),
        ]
        processes = [(Process(**environment), words) for environment, words in cases]
        for process, _ in processes:
            stack.callback(process.end)
        yield processes


def test_a_start_that_cannot_succeed_ends_with_one_clear_line_and_a_status_that_says_so(
    hopeless: list[tuple[Process, str]],
) -> None:
    for process, words in hopeless:
        assert_ends_with_one_line(process, words)
