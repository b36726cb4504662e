"""The client of Hugging Face for JavaScript, in node: each of its methods for a task that is served."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from pipeline_webserver.api.tasks import TASKS
from tests.support.compare import assert_same
from tests.support.documents import Example, examples
from tests.support.media import noise, picture, pixels, recording
from tests.support.pipelines import load_pipeline
from tests.support.process import Process

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="there is no node, or no npm"),
]
PACKAGE = "@huggingface/inference@4.13.30"
SCRIPT = Path(__file__).parents[1] / "support" / "javascript_client.mjs"
TABLE = {"name": ["ann", "bob"], "age": ["31", "45"]}
LABELS = ["science", "travel"]


def file(data: bytes, media_type: str) -> str:
    return f"file:{media_type}:{base64.b64encode(data).decode()}"


IMAGE, AUDIO = file(picture(1), "image/png"), file(recording(noise(1)), "audio/wav")


def labels_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"label": name, "score": score} for name, score in zip(result["labels"], result["scores"], strict=True)]


def masks(segments: list[dict[str, Any]]) -> list[str]:
    return [segment["label"] for segment in segments]


def same(answer: Any) -> Any:
    return answer


# Of each task: the method and its arguments, what is made of the answer, and what that is by the pipeline.
Case = tuple[str, dict[str, Any], Callable[[Any], Any], Callable[[Any], Any]]
CASES: dict[str, Case] = {
    "fill-mask": ("fillMask", {"inputs": "a [MASK] test"}, same, lambda pipe: pipe("a [MASK] test")),
    "text-classification": ("textClassification", {"inputs": "a test"}, same, lambda pipe: pipe("a test")),
    "token-classification": (
        "tokenClassification",
        {"inputs": "a test", "parameters": {"aggregation_strategy": "simple"}},
        same,
        lambda pipe: pipe("a test", aggregation_strategy="simple"),
    ),
    "feature-extraction": ("featureExtraction", {"inputs": "a test"}, same, lambda pipe: pipe("a test")),
    "zero-shot-classification": (
        "zeroShotClassification",
        {"inputs": ["a test"], "parameters": {"candidate_labels": LABELS}},
        same,
        lambda pipe: labels_of(pipe("a test", candidate_labels=LABELS)),
    ),
    "table-question-answering": (
        "tableQuestionAnswering",
        {"inputs": {"query": "how old is bob ?", "table": TABLE}},
        lambda answer: answer["answer"],
        lambda pipe: pipe({"table": pandas.DataFrame(TABLE), "query": "how old is bob ?"})["answer"],
    ),
    "image-classification": ("imageClassification", {"inputs": IMAGE}, same, lambda pipe: pipe(pixels(1))),
    "object-detection": (
        "objectDetection",
        {"inputs": IMAGE},
        same,
        lambda pipe: pipe(pixels(1)),
    ),
    "image-segmentation": (
        "imageSegmentation",
        {"inputs": IMAGE},
        masks,
        lambda pipe: masks(pipe(pixels(1))),
    ),
    "zero-shot-image-classification": (
        "zeroShotImageClassification",
        {"inputs": IMAGE, "parameters": {"candidate_labels": LABELS}},
        same,
        lambda pipe: pipe(pixels(1), candidate_labels=LABELS),
    ),
    "automatic-speech-recognition": (
        "automaticSpeechRecognition",
        {"inputs": AUDIO},
        same,
        lambda pipe: pipe(noise(1)),
    ),
    "audio-classification": ("audioClassification", {"inputs": AUDIO}, same, lambda pipe: pipe(noise(1))),
}
# This client has no method for the first; that of the second calls a route that is not there.
WITHOUT = {"image-feature-extraction", "text-generation"}


@pytest.fixture(scope="module")
def client_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copy(SCRIPT, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), PACKAGE]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if installed.returncode:
        pytest.skip(f"npm cannot install {PACKAGE}: {installed.stderr[-200:]}")
    return folder


@pytest.fixture(scope="module")
def answers(client_folder: Path, every_task: Process) -> dict[str, Any]:
    """What each method gives, by task: one start of node for all."""
    calls = {task: (method, args) for task, (method, args, _, _) in CASES.items()}
    calls["text-generation"] = ("textGeneration", {"inputs": "once"})
    given = [
        {"url": f"{every_task.url}/{task}", "method": method, "args": args} for task, (method, args) in calls.items()
    ]
    command = ["node", str(client_folder / SCRIPT.name)]
    ran = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=120, check=True)
    return dict(zip(calls, json.loads(ran.stdout), strict=True))


@pytest.mark.parametrize("example", examples("javascript"), ids=str)
def test_an_example_of_the_documents_prints_what_it_says(
    example: Example, client_folder: Path, bundled: Process
) -> None:
    script = client_folder / "example.mjs"
    script.write_text(example.code.replace("http://localhost:8000", bundled.url))
    ran = subprocess.run(["node", str(script)], capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout.splitlines() == re.findall(r"^console\.log\(.*\); // (.*)$", example.code, re.MULTILINE)


def test_every_task_that_the_client_has_a_method_for_is_tried() -> None:
    assert set(CASES) == set(TASKS) - WITHOUT


@pytest.mark.parametrize("task", CASES)
def test_each_method_gives_what_the_pipeline_gives(task: str, answers: dict[str, Any], every_model: Path) -> None:
    _, _, read, expect = CASES[task]
    assert "error" not in answers[task], answers[task]
    assert_same(read(answers[task]["answer"]), expect(load_pipeline(every_model / task, task)))


def test_a_method_whose_route_is_not_there_gets_the_routes_that_are(answers: dict[str, Any]) -> None:
    body = answers["text-generation"]["body"]
    assert body["error_type"] == "not_found"
    assert "/v1/completions. Send your text with POST to /. There are POST /, GET /health," in body["error"]["message"]
