"""Text generation of many at once, over HTTP, by a real model: what each client gets, and how soon."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from transformers import Pipeline

from config import Settings
from server import create_app
from tests.support import media_models
from tests.support.pipelines import load_pipeline
from tests.support.process import serving_in_thread

LONG_TOKENS = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media_models.make(media_models.llama, tmp_path_factory.mktemp("llama"), eos_token_id=None)


@pytest.fixture(scope="module")
def pipe(folder: Path) -> Pipeline:
    return load_pipeline(folder)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    settings = Settings(model=str(folder), accelerate=False, threads=1, max_new_tokens=LONG_TOKENS)
    with serving_in_thread(create_app(settings)) as url, httpx2.Client(base_url=url, timeout=60) as client:
        client.get("/ready")
        yield client


def generate(client: httpx2.Client, text: str, tokens: int) -> httpx2.Response:
    parameters = {"max_new_tokens": tokens, "do_sample": False}
    return client.post("/", json={"inputs": text, "parameters": parameters})


def test_clients_at_once_get_what_the_pipeline_gives_each_alone(client: httpx2.Client, pipe: Pipeline) -> None:
    texts = [f"{'once ' * (index % 4)}upon {index}" for index in range(12)]
    with ThreadPoolExecutor(len(texts)) as executor:
        answers = list(executor.map(lambda item: generate(client, item[1], 5 + item[0]), enumerate(texts)))
    for index, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        assert answer.json() == pipe(text, max_new_tokens=5 + index, do_sample=False)
    assert client.get("/info").json()["batching"]["strategy"] == "continuous"


def test_a_short_text_is_answered_while_a_long_one_is_generated(client: httpx2.Client, pipe: Pipeline) -> None:
    with ThreadPoolExecutor(1) as executor:
        long = executor.submit(generate, client, "once upon a time", LONG_TOKENS)
        while "pipeline_inputs_in_flight 1.0" not in client.get("/metrics").text:
            pass
        short = generate(client, "a", 2)
        assert not long.done()
        assert short.json() == pipe("a", max_new_tokens=2, do_sample=False)
        assert long.result().json() == pipe("once upon a time", max_new_tokens=LONG_TOKENS, do_sample=False)


def test_a_list_is_generated_from_side_by_side(client: httpx2.Client, pipe: Pipeline) -> None:
    texts = ["once", "upon a time", "a"]
    parameters = {"max_new_tokens": 30, "do_sample": False}
    answer = client.post("/", json={"inputs": texts, "parameters": parameters})
    assert answer.json() == pipe(texts, **parameters)
    assert answer.headers["server-timing"].endswith('batch;desc="3"')
