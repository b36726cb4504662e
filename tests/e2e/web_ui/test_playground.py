"""The playground: the form of each task, and how its answers are shown."""

import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest

from pipeline_webserver.api.tasks import TASKS
from tests.e2e.web_ui.snippets import printed_by, result_of_shell, save_chosen_file
from tests.support.browser import Visit
from tests.support.compare import assert_same
from tests.support.media import picture
from tests.support.sentences import EMBEDDING

# What the answer to the first example of each task consists of.
ANSWERS = {
    "fill-mask": ".answer .bar",
    "text-classification": ".answer .bar",
    "token-classification": ".answer .sentence",
    "feature-extraction": ".answer canvas.strip",
    "zero-shot-classification": ".answer .bar",
    "text-generation": ".answer .sentence mark",
    "table-question-answering": ".answer table.grid",
    "image-classification": ".answer .bar",
    "object-detection": ".answer .overlaid svg, .answer p",
    "image-segmentation": ".answer .overlaid canvas + canvas",
    "image-feature-extraction": ".answer canvas.strip",
    "zero-shot-image-classification": ".answer .bar",
    "automatic-speech-recognition": ".answer blockquote",
    "audio-classification": ".answer .bar",
}


def percent(score: float) -> str:
    return f"{100 * score:.1f} %"


def test_predictions_stand_in_their_sentence_with_their_probabilities(visit: Visit, bundled_url: str) -> None:
    visit.go(bundled_url)
    visit.run(Text="Albert Einstein was a [MASK] physicist.")
    assert visit.text(".sentence") == "Albert Einstein was a german physicist."
    assert visit.texts(".answer .bar .name")[:3] == ["german", "swiss", "austrian"]
    assert visit.texts(".answer .bar .number")[:2] == ["55.6 %", "7.2 %"]
    assert visit.hidden_text("#status .visually-hidden") == ": german, 55.6 %"
    visit.page.click(".answer .bar >> nth=1")
    assert visit.text(".sentence mark") == "swiss"
    timing = r"[\d.]+ m?s in the server, in a batch of 1; [\d.]+ m?s measured in the browser\."
    assert re.fullmatch(timing, visit.text("#timing p"))
    assert [text.split()[0] for text in visit.texts("#timing .legend li")] == ["queue", "model", "other"]


def test_each_of_several_masks_has_its_predictions(visit: Visit, bundled_url: str) -> None:
    visit.go(bundled_url)
    visit.run_example(1)
    assert visit.text(".sentence") == "The largest planet in the solar system is Jupiter."
    assert visit.texts(".answer h3") == ["Mask 1", "Mask 2"]


def test_a_button_inserts_the_mask_at_the_caret(visit: Visit, bundled_url: str) -> None:
    visit.go(bundled_url)
    text = visit.page.get_by_label("Text")
    text.fill("a dog is an.")
    text.evaluate("area => area.setSelectionRange(11, 11)")
    visit.page.get_by_role("button", name="Insert [MASK]").click()
    assert text.input_value() == "a dog is an [MASK]."


@pytest.mark.extended
def test_the_keyboard_is_enough(visit: Visit, bundled_url: str) -> None:
    visit.go(bundled_url)
    tab_to(visit, "document.activeElement.tagName === 'TEXTAREA'")
    for keys, text, sentence in [
        ("Control+Enter", "a dog is an [MASK].", "a dog is an animal."),
        ("Meta+Enter", "the dog is an [MASK].", "the dog is an animal."),
    ]:
        visit.page.keyboard.press("Control+A")
        visit.page.keyboard.type(text)
        visit.page.keyboard.press(keys)
        visit.wait_for_answer()
        assert visit.text(".sentence") == sentence
    tab_to(visit, "document.activeElement.id === 'tab-curl'")
    visit.page.keyboard.press("ArrowRight")
    assert visit.page.evaluate("document.activeElement.id") == "tab-Python"
    assert visit.text("#snippet").startswith("from huggingface_hub import InferenceClient")
    visit.page.keyboard.press("ArrowLeft")
    visit.page.keyboard.press("ArrowLeft")
    assert visit.page.get_attribute("#tab-JavaScript", "aria-selected") == "true"


def tab_to(visit: Visit, condition: str) -> None:
    """Press the tab key until the condition is true."""
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate(condition):
            return
    pytest.fail(f"no key reaches {condition}")


def test_labels_have_bars_as_the_server_answers(visit: Visit, url_of: Callable[[str], str]) -> None:
    url = url_of("text-classification")
    visit.go(url)
    visit.run(Text="I like it.")
    form = {"inputs": "I like it.", "parameters": {"top_k": 5}}
    (labels,) = httpx2.post(url, json=form, timeout=60).json()
    assert visit.texts(".answer .name") == [item["label"] for item in labels]
    assert visit.texts(".answer .number") == [percent(item["score"]) for item in labels]
    assert visit.answer() == [labels]
    visit.run(Second_text="I hate it.")
    pair = {"inputs": {"text": "I like it.", "text_pair": "I hate it."}, "parameters": {"top_k": 5}}
    assert visit.answer() == httpx2.post(url, json=pair, timeout=60).json()


def test_entities_are_highlighted_where_python_counts_them(visit: Visit, url_of: Callable[[str], str]) -> None:
    url, text = url_of("token-classification"), "🙂🙂 Ada met Bob in Köln 🙂 today."
    visit.go(url)
    visit.run(Text=text)
    form = {"inputs": text, "parameters": {"aggregation_strategy": "simple"}}
    entities = httpx2.post(url, json=form, timeout=60).json()
    assert len(entities) >= 3
    shown = [
        f"{text[item['start'] : item['end']]} {item['entity_group']} {percent(item['score'])}" for item in entities
    ]
    assert visit.texts(".answer mark") == shown


@pytest.mark.extended
def test_a_label_is_chosen_among_those_that_were_given(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("zero-shot-classification"))
    visit.run(Text="a test", Labels="one, two,, two , three")
    assert sorted(visit.texts(".answer .name")) == ["one", "three", "two"]
    visit.page.get_by_label("Several labels").check()
    visit.run(Labels="")
    assert visit.text("#error") == "Enter at least one label."


@pytest.mark.parametrize(
    ("name", "note"),
    [
        (EMBEDDING, ["384 numbers, norm 1.000"] * 2),
        ("feature-extraction", [r"mean of \d+ tokens, 32 numbers, norm [\d.]+"] * 2),
    ],
)
def test_two_texts_stand_side_by_side_with_the_cosine_of_their_embeddings(
    name: str, note: list[str], visit: Visit, url_of: Callable[[str], str]
) -> None:
    texts = ["A cat sits on the mat.", "A kitten is lying on a rug."]
    visit.go(url_of(name))
    visit.run(Text=texts[0], Second_text=texts[1])
    answers = httpx2.post(url_of(name), json={"inputs": texts}, timeout=60).json()
    one, other = (np.array(answer).reshape(-1, np.shape(answer)[-1]).mean(0) for answer in answers)
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert visit.text(".similarity") == f"Cosine similarity {cosine:.3f}"
    assert visit.hidden_text("#status .visually-hidden") == f": Cosine similarity {cosine:.3f}"
    assert visit.texts(".pair blockquote") == texts
    assert all(map(re.fullmatch, note, visit.texts(".pair .hint")))
    assert visit.answer() == answers
    visit.run(Second_text="")
    assert visit.texts(".similarity") == []


@pytest.mark.extended
def test_a_file_is_chosen_and_its_name_goes_into_the_snippets(
    visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "my cat's.png").write_bytes(picture(1))
    url = url_of("image-classification")
    visit.go(url)
    visit.page.click("#run")
    assert visit.text("#error") == "Choose a file first."
    visit.page.set_input_files("input[type=file]", str(tmp_path / "my cat's.png"))
    visit.run()
    labels = httpx2.post(url, content=picture(1), headers={"content-type": "image/png"}, timeout=60).json()
    assert visit.texts(".answer .name") == [item["label"] for item in labels]
    assert result_of_shell(visit.text("#snippet"), tmp_path) == labels
    visit.go(url_of("zero-shot-image-classification"))
    visit.page.set_input_files("input[type=file]", str(tmp_path / "my cat's.png"))
    visit.run(Labels='it\'s a "cat", 100 %s')
    assert result_of_shell(visit.text("#snippet"), tmp_path) == visit.answer()


@pytest.mark.extended
@pytest.mark.parametrize("task", TASKS)
def test_an_example_of_every_task_is_answered_and_its_snippets_run(
    task: str, visit: Visit, url_of: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit.go(url_of(task))
    visit.run_example()
    assert visit.text("#error") == ""
    assert visit.page.locator(ANSWERS[task]).count() > 0
    assert visit.text("#status").startswith("Answered in ")
    if TASKS[task].is_file:
        save_chosen_file(visit, tmp_path)
    answer = result_of_shell(visit.hidden_text("#snippet"), tmp_path)
    if task == "text-generation":  # it samples
        assert answer[0]["generated_text"].startswith("Once upon a time")
    else:
        assert_same(answer, visit.answer())
    visit.page.click("#tab-Python")
    monkeypatch.chdir(tmp_path)
    assert len(printed_by(visit.hidden_text("#snippet"), monkeypatch)) == 1


def test_what_stays_in_sight_beside_an_answer_never_covers_what_is_below(visit: Visit, bundled_url: str) -> None:
    visit.page.set_viewport_size({"width": 1280, "height": 500})
    visit.go(bundled_url)
    visit.run_example()
    edges = "() => ['#metrics', '#burst'].map((id) => document.querySelector(id).getBoundingClientRect())"
    for target in ("#playground", "#burst", "#optimizations"):
        visit.page.evaluate(f"() => document.querySelector('{target}').scrollIntoView()")
        metrics, burst = visit.page.evaluate(edges)
        assert metrics["y"] + metrics["height"] <= burst["y"]
    visit.page.set_viewport_size({"width": 1280, "height": 720})
