"""The clients that people have, against a real process with a model of every task, sync and async."""

import asyncio
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import openai
import pandas
import PIL.Image
import pytest
import torch
from huggingface_hub import AsyncInferenceClient, InferenceClient

from pipeline_webserver.api.tasks import TASKS
from tests.support.compare import assert_same
from tests.support.media import noise, picture, pixels, recording
from tests.support.pipelines import load_pipeline
from tests.support.process import Process
from tests.support.sentences import EMBEDDING, MINILM

# The async client's own way of sending bytes.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>'")
TABLE = {"name": ["ann", "bob"], "age": ["31", "45"]}
LABELS = ["science", "travel"]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client refuses every address, ours too, while the hub is switched off."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


def ask(kind: Any, url: str, method: str, *arguments: Any, **options: Any) -> Any:
    """What a client's method gives; an async client gets a loop of its own."""
    if kind is InferenceClient:
        return getattr(kind(model=url), method)(*arguments, **options)

    async def ask_async() -> Any:
        async with kind(model=url) as client:
            return await getattr(client, method)(*arguments, **options)

    return asyncio.run(ask_async())


def of_labels(items: Any) -> list[dict[str, Any]]:
    return [{"label": item.label, "score": item.score} for item in items]


def plain(items: Any) -> Any:
    """The client's objects as they came, without what is not there."""
    if isinstance(items, list):
        return [plain(item) for item in items]
    if isinstance(items, dict):
        return {name: plain(value) for name, value in items.items() if value is not None}
    return items


def masks(segments: Any) -> list[list[str]]:
    return [[segment["label"], segment["mask"].convert("L").tobytes().hex()] for segment in segments]


# Of each task: the client's method and its arguments, what is made of the answer, and what that is by the pipeline.
Case = tuple[str, tuple[Any, ...], dict[str, Any], Callable[[Any], Any], Callable[[Any], Any]]
CASES: dict[str, Case] = {
    "fill-mask": (
        "fill_mask",
        ("a [MASK] test",),
        {"top_k": 2},
        plain,
        lambda pipe: pipe("a [MASK] test", top_k=2),
    ),
    "text-classification": (
        "text_classification",
        ("a test",),
        {"top_k": 2},
        plain,
        lambda pipe: pipe("a test", top_k=2),
    ),
    "token-classification": (
        "token_classification",
        ("a test",),
        {"aggregation_strategy": "simple", "ignore_labels": []},
        plain,
        lambda pipe: pipe("a test", aggregation_strategy="simple", ignore_labels=[]),
    ),
    "feature-extraction": (
        "feature_extraction",
        ("a test",),
        {},
        lambda answer: answer.tolist(),
        lambda pipe: pipe("a test"),
    ),
    "zero-shot-classification": (
        "zero_shot_classification",
        ("a test", LABELS),
        {"hypothesis_template": "It is {}."},
        of_labels,
        lambda pipe: zero_shot(pipe("a test", candidate_labels=LABELS, hypothesis_template="It is {}.")),
    ),
    "text-generation": (
        "text_generation",
        ("once",),
        {"do_sample": False, "max_new_tokens": 5, "stop": ["q"], "return_full_text": True},
        lambda answer: answer,
        lambda pipe: pipe("once", do_sample=False, max_new_tokens=5)[0]["generated_text"],
    ),
    "table-question-answering": (
        "table_question_answering",
        (TABLE, "how old is bob ?"),
        {"sequential": True},
        plain,
        lambda pipe: in_lists(pipe({"table": pandas.DataFrame(TABLE), "query": "how old is bob ?"})),
    ),
    "image-classification": (
        "image_classification",
        (picture(1),),
        {},
        plain,
        lambda pipe: pipe(pixels(1)),
    ),
    "object-detection": (
        "object_detection",
        (picture(1),),
        {"threshold": 0.1},
        plain,
        lambda pipe: pipe(pixels(1), threshold=0.1),
    ),
    "image-segmentation": (
        "image_segmentation",
        (picture(1),),
        {"subtask": "semantic"},
        masks,
        lambda pipe: masks(pipe(pixels(1))),
    ),
    "automatic-speech-recognition": (
        "automatic_speech_recognition",
        (recording(noise(1)),),
        {},
        lambda answer: answer.text,
        lambda pipe: pipe(noise(1))["text"],
    ),
    "audio-classification": (
        "audio_classification",
        (recording(noise(1)),),
        {"top_k": 2},
        plain,
        lambda pipe: pipe(noise(1), top_k=2),
    ),
    "zero-shot-image-classification": (
        "zero_shot_image_classification",
        (picture(1), LABELS),
        {},
        plain,
        lambda pipe: pipe(pixels(1), candidate_labels=LABELS),
    ),
}


def zero_shot(result: Any) -> list[dict[str, Any]]:
    return [{"label": name, "score": score} for name, score in zip(result["labels"], result["scores"], strict=True)]


def in_lists(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"coordinates": [list(place) for place in result["coordinates"]]}


# The async client differs in how it sends text and files, not by task.
ASYNC = ("fill-mask", "image-classification")


@pytest.mark.parametrize(
    ("task", "kind"),
    [(task, InferenceClient) for task in CASES] + [(task, AsyncInferenceClient) for task in ASYNC],
)
def test_each_method_of_huggingface_hubs_client_gives_what_the_pipeline_gives(
    task: str, kind: Any, every_task: Process, every_model: Path
) -> None:
    method, arguments, options, read, expect = CASES[task]
    answer = ask(kind, f"{every_task.url}/{task}", method, *arguments, **options)
    assert_same(read(answer), plain(expect(load_pipeline(every_model / task, task))))


def test_every_task_that_the_client_has_a_method_for_is_tried() -> None:
    without = {"image-feature-extraction"}
    assert set(CASES) == set(TASKS) - without
    assert not hasattr(InferenceClient, "image_feature_extraction")


@pytest.mark.parametrize("task", ["image-classification", "automatic-speech-recognition"])
def test_files_come_from_paths_with_their_type(
    task: str, every_task: Process, every_model: Path, tmp_path: Path
) -> None:
    client = InferenceClient(model=f"{every_task.url}/{task}")
    if task == "image-classification":
        (tmp_path / "cat.png").write_bytes(picture(1))
        assert plain(client.image_classification(tmp_path / "cat.png")) == plain(
            client.image_classification(picture(1))
        )
    else:
        (tmp_path / "word.wav").write_bytes(recording(noise(1)))
        answer = client.automatic_speech_recognition(tmp_path / "word.wav")
        assert answer == client.automatic_speech_recognition(recording(noise(1)))


def test_the_client_says_what_was_wrong(every_task: Process) -> None:
    client = InferenceClient(model=f"{every_task.url}/image-classification")
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="The file is no image"):
        client.image_classification(b"a text")
    with pytest.raises(huggingface_hub.errors.TextGenerationError, match="'max_new_tokens' is over the limit"):
        InferenceClient(model=f"{every_task.url}/text-generation").text_generation("a", max_new_tokens=21)


def test_the_client_sees_whether_the_server_is_well_and_what_it_runs(every_task: Process) -> None:
    client = InferenceClient(model=f"{every_task.url}/fill-mask", provider="hf-inference")
    assert client.health_check()
    assert client.get_endpoint_info()["task"] == "fill-mask"


# Raw bodies and the JSON form


FILE_TASKS = [name for name, task in TASKS.items() if task.is_file and not task.required_parameters]
OWN_TYPE = {"image": "image/png", "audio": "audio/wav"}
# Each type once, and that of the file itself for each task.
CONTENT_TYPES = [("image-classification", kind) for kind in ("", "application/octet-stream")]
CONTENT_TYPES += [("image-classification", "application/x-www-form-urlencoded")]
CONTENT_TYPES += [(task, OWN_TYPE[TASKS[task].input_kind]) for task in FILE_TASKS]


@pytest.mark.parametrize(("task", "content_type"), CONTENT_TYPES)
def test_a_body_that_is_a_file_is_answered_as_its_base64_in_the_json_form(
    task: str, content_type: str, every_task: Process
) -> None:
    data = picture(1) if TASKS[task].input_kind == "image" else recording(noise(1))
    client, headers = every_task.client, {"content-type": content_type}
    raw = client.post(f"/{task}", content=data, headers=headers)
    form = client.post(f"/{task}", json={"inputs": base64.b64encode(data).decode()})
    assert raw.status_code == form.status_code == 200
    assert plain(raw.json()) == form.json()  # a segment's null of a score is not in the JSON form


def test_pairs_of_texts_and_lists_of_them_are_answered_in_lists(every_task: Process, every_model: Path) -> None:
    pair = {"text": "a dog", "text_pair": "an animal"}
    answer = every_task.client.post("/text-classification", json={"inputs": [pair, "a dog"]}).json()
    pipe = load_pipeline(every_model / "text-classification")
    assert_same(answer, [[pipe(pair)], pipe("a dog")])
    one = every_task.client.post("/text-classification", json={"inputs": pair}).json()
    assert_same(one, [[pipe(pair)]])


def test_a_text_for_a_pipeline_of_files_is_rejected_and_never_read_as_a_path_or_an_address(every_task: Process) -> None:
    for inputs in ("/etc/passwd", "http://127.0.0.1:1/cat.png"):
        answer = every_task.client.post("/image-classification", json={"inputs": inputs})
        assert (answer.status_code, answer.json()["error_type"]) in {(400, "malformed"), (422, "rejected")}
        headers = {"content-type": "text/plain"}
        answer = every_task.client.post("/image-classification", content=inputs, headers=headers)
        assert (answer.status_code, answer.json()["error_type"]) == (415, "unsupported_media_type")


def test_masks_are_files_in_base64(every_task: Process) -> None:
    answer = every_task.client.post("/image-segmentation", content=picture(1)).json()
    assert {PIL.Image.open(io.BytesIO(base64.b64decode(segment["mask"]))).size for segment in answer} == {(60, 40)}


def test_a_seed_gives_the_same_text_again_over_the_wire(every_task: Process, every_model: Path) -> None:
    form = {"inputs": "once", "parameters": {"seed": 3, "temperature": 1.5, "do_sample": True, "max_new_tokens": 8}}
    answers = [every_task.client.post("/text-generation", json=form).json() for _ in range(2)]
    pipe = load_pipeline(every_model / "text-generation")
    torch.manual_seed(3)
    assert answers[0] == answers[1] == pipe("once", temperature=1.5, do_sample=True, max_new_tokens=8)


# Embeddings


@pytest.fixture(scope="module")
def sentence_transformer() -> Any:
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - its import takes seconds

    return SentenceTransformer(str(MINILM), device="cpu")


def test_openais_client_gets_the_embeddings_of_sentence_transformers(
    every_task: Process, sentence_transformer: Any
) -> None:
    texts = ["a test", "paris is the capital of france", "word " * 300]
    theirs = sentence_transformer.encode(texts)
    client = openai.OpenAI(base_url=f"{every_task.url}/{EMBEDDING}/v1", api_key="none")
    answer = client.embeddings.create(input=texts, model="any")
    assert ([item.index for item in answer.data], answer.model) == ([0, 1, 2], "all-MiniLM-L6-v2")
    assert np.abs(np.array([item.embedding for item in answer.data]) - theirs).max() < 1e-5
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4 + 8 + 256
    as_numbers = client.embeddings.create(input=texts[0], model="any", encoding_format="float")
    assert as_numbers.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)
    short = client.embeddings.create(input=texts[1], model="any", dimensions=32).data[0].embedding
    assert np.abs(np.array(short) - theirs[1][:32] / np.linalg.norm(theirs[1][:32])).max() < 1e-5


def test_openais_async_client_gets_them_too(every_task: Process) -> None:
    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{every_task.url}/{EMBEDDING}/v1", api_key="none") as client:
            return await client.embeddings.create(input="a test", model="any")

    (item,) = asyncio.run(ask()).data
    assert len(item.embedding) == 384


def test_openais_client_says_what_was_wrong(every_task: Process) -> None:
    client = openai.OpenAI(base_url=f"{every_task.url}/{EMBEDDING}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="'dimensions' is 385; the model's embeddings have 384"):
        client.embeddings.create(input="a", model="any", dimensions=385)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(input=[[15339, 1917]], model="any")
    other = openai.OpenAI(base_url=f"{every_task.url}/fill-mask/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="this server runs fill-mask for fill-mask"):
        other.embeddings.create(input="a", model="any")


@pytest.mark.parametrize("kind", [InferenceClient, AsyncInferenceClient])
def test_huggingface_hubs_client_gets_embeddings_one_row_for_each_text(
    kind: Any, every_task: Process, sentence_transformer: Any
) -> None:
    texts, url = ["a test", "another one"], f"{every_task.url}/{EMBEDDING}"
    parameters = {"normalize": False, "truncate": True, "truncation_direction": "left"}
    one, both = (ask(kind, url, "feature_extraction", text) for text in (texts[0], texts))
    raw = ask(kind, url, "feature_extraction", texts[0], **parameters)
    assert (one.shape, both.shape, raw.shape) == ((1, 384), (2, 384), (1, 384))
    assert np.abs(both - sentence_transformer.encode(texts)).max() < 1e-5
    assert np.abs(one[0] - both[0]).max() < 1e-6
    short = ask(kind, url, "feature_extraction", texts[0], dimensions=32, encoding_format="float")
    assert np.abs(short[0] - one[0][:32] / np.linalg.norm(one[0][:32])).max() < 1e-6
    assert np.abs(raw / np.linalg.norm(raw) - one).max() < 1e-6


def test_raw_text_is_answered_with_what_the_pipeline_returns_whatever_the_configuration(every_task: Process) -> None:
    answer = every_task.client.post(f"/{EMBEDDING}", content=b"a test").json()
    assert_same(answer, load_pipeline(MINILM)("a test"))
