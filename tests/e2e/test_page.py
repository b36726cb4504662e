"""The page for browsers: how it is served, and what a real headless Chromium makes of it against real servers."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
from starlette.testclient import TestClient

from config import Settings
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.web.pages import FOLDER, TYPES, wants_page
from server import create_app
from tests.support.browser import Open, Visit, axe, running_browser
from tests.support.compare import assert_same
from tests.support.fakes import FakeRunner
from tests.support.media import noise, picture, recording
from tests.support.process import Process, serving_in_thread
from tests.support.sentences import EMBEDDING

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
WITH_KEY: dict[str, Any] = {"api_key": "secret"}
# Nothing in it may mean anything to a shell, to Python or to JavaScript.
HOSTILE = """it's "a" `test` $HOME $(id) \\n \\ % %s {} ${x} <b> & ; é 漢 🙂
the second [MASK] line"""


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(Settings(**WITH_KEY), FakeRunner())) as opened:
        yield opened


# How it is served


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (BROWSER["accept"], True),
        ("TEXT/HTML", True),
        ("application/json, text/html;q=0.5", True),
        ("text/html;q=0", False),
        ("text/html; q=0.0, */*", False),
        ("*/*", False),
        ("application/json", False),
        ("text/htmlx", False),
        ("", False),
    ],
)
def test_who_asks_for_html_wants_the_page(accept: str, wanted: bool) -> None:
    assert wants_page(accept) is wanted


def test_a_browser_gets_the_page_and_everyone_else_a_hint(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.content == (FOLDER / "index.html").read_bytes()
    program = client.get("/")
    assert (program.status_code, program.headers["allow"]) == (405, "POST")
    message = "Method Not Allowed: GET /. Send your text with POST to /."
    assert program.json() == {"error": message, "error_type": "method_not_allowed"}
    assert page.headers["vary"] == program.headers["vary"] == "Accept"


@pytest.mark.parametrize("path", ["/", *(f"/static/{file.name}" for file in sorted(FOLDER.iterdir()))])
def test_a_file_has_its_type_and_a_strict_policy_and_is_sent_once(path: str, client: TestClient) -> None:
    first = client.get(path, headers=BROWSER)
    assert first.status_code == 200
    assert first.headers["content-type"] == TYPES[Path(path).suffix or ".html"]
    assert first.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "unsafe" not in first.headers["content-security-policy"]
    assert (first.headers["x-content-type-options"], first.headers["cache-control"]) == ("nosniff", "no-cache")
    again = client.get(path, headers={**BROWSER, "if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"


def test_the_page_needs_no_key_and_the_api_does(client: TestClient) -> None:
    assert client.get("/info").status_code == 401
    assert client.get("/info").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["", "/", "/nothing.js", "/../page.py", "/%2e%2e/page.py", "/%00", "/..%5cpage.py"])
def test_nothing_but_the_files_is_served(path: str, client: TestClient) -> None:
    answer = client.get(f"/static{path}")
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


def test_files_cannot_be_written(client: TestClient) -> None:
    answer = client.put("/static/home.js", content=b"x")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.*s")), ids=lambda file: file.name)
def test_a_script_or_style_opens_with_what_it_owns_and_names_no_other_place(file: Path) -> None:
    text = file.read_text()
    opening = re.match(r"/\* (.*?) \*/", text, re.DOTALL)
    assert opening
    assert len(opening[1].split()) > 10
    assert set(re.findall(r"https?://[^\"'`\s]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text


# In a browser


@pytest.fixture(scope="module")
def url_of(every_task: Process) -> Callable[[str], str]:
    return lambda task: f"{every_task.url}/{task}/"


@pytest.fixture(scope="module")
def visits() -> Iterator[Open]:
    with running_browser() as browser:

        def open_page(**options: Any) -> Visit:
            return Visit(browser.new_context(permissions=["clipboard-read", "clipboard-write"], **options).new_page())

        yield open_page


@pytest.fixture
def visit(visits: Open) -> Iterator[Visit]:
    """A page that must not see an error, nor ask any other place than the one it came from."""
    opened = visits()
    yield opened
    origin = re.match(r"https?://[^/]+/", opened.page.url)
    opened.page.context.close()
    assert opened.errors == []
    assert origin
    assert [url for url in opened.urls if not url.startswith((origin[0], "blob:", "data:"))] == []


@pytest.fixture
def careless(visits: Open) -> Iterator[Visit]:
    """A page on which errors are wanted."""
    opened = visits()
    yield opened
    opened.page.context.close()


def percent(score: float) -> str:
    return f"{100 * score:.1f} %"


def test_guesses_stand_in_their_sentence_with_their_probabilities(visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    visit.run(Text="Albert Einstein was a [MASK] physicist.")
    assert visit.text(".sentence") == "Albert Einstein was a german physicist."
    assert visit.texts(".answer .bar .name")[:3] == ["german", "swiss", "austrian"]
    assert visit.texts(".answer .bar .number")[:2] == ["55.6 %", "7.2 %"]
    assert visit.page.text_content("#status .unseen") == ": german, 55.6 %"
    visit.page.click(".answer .bar >> nth=1")
    assert visit.text(".sentence mark") == "swiss"
    assert re.fullmatch(r"[\d.]+ m?s in the server: .* in a batch of 1; [\d.]+ m?s as seen from here\.", timing(visit))


def timing(visit: Visit) -> str:
    return visit.text("#timing p")


def test_each_of_several_masks_has_its_guesses(visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    visit.page.click("#examples button >> nth=1")
    visit.answered()
    assert visit.text(".sentence") == "The largest planet in the solar system is Jupiter."
    assert visit.texts(".answer h3") == ["Mask 1", "Mask 2"]


def test_a_button_inserts_the_mask_at_the_caret(visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    text = visit.page.get_by_label("Text")
    text.fill("a dog is an .")
    text.evaluate("area => area.setSelectionRange(11, 11)")
    visit.page.get_by_role("button", name="Insert [MASK]").click()
    assert text.input_value() == "a dog is an [MASK] ." or text.input_value() == "a dog is an [MASK]."


@pytest.mark.parametrize("keys", ["Control+Enter", "Meta+Enter"])
def test_the_keyboard_is_enough(keys: str, visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    focused = "() => document.activeElement.tagName"
    for _ in range(10):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate(focused) == "TEXTAREA":
            break
    visit.page.keyboard.press("Control+A")
    visit.page.keyboard.type("a dog is an [MASK].")
    visit.page.keyboard.press(keys)
    visit.answered()
    assert visit.text(".sentence") == "a dog is an animal."
    for _ in range(30):
        visit.page.keyboard.press("Tab")
        if visit.page.evaluate("() => document.activeElement.id") == "tab-curl":
            break
    visit.page.keyboard.press("ArrowRight")
    assert visit.page.evaluate("() => document.activeElement.id") == "tab-Python"
    assert visit.text("#snippet").startswith("from huggingface_hub import InferenceClient")
    visit.page.keyboard.press("ArrowLeft")
    visit.page.keyboard.press("ArrowLeft")
    assert visit.page.get_attribute("#tab-JavaScript", "aria-selected") == "true"


def test_labels_have_bars_as_the_server_answers(visit: Visit, url_of: Callable[[str], str]) -> None:
    url = url_of("text-classification")
    visit.go(url)
    visit.run(Text="I like it.")
    form = {"inputs": "I like it.", "parameters": {"top_k": 5}}
    (labels,) = httpx2.post(url, json=form, timeout=60).json()
    assert visit.texts(".answer .name") == [item["label"] for item in labels]
    assert visit.texts(".answer .number") == [percent(item["score"]) for item in labels]
    assert json.loads(visit.page.text_content("#json") or "") == [labels]
    visit.run(Second_text="I hate it.")
    pair = {"inputs": {"text": "I like it.", "text_pair": "I hate it."}, "parameters": {"top_k": 5}}
    assert json.loads(visit.page.text_content("#json") or "") == httpx2.post(url, json=pair, timeout=60).json()


def test_entities_are_highlighted_where_python_counts_them(visit: Visit, url_of: Callable[[str], str]) -> None:
    url, text = url_of("token-classification"), "🙂🙂 Ada met Bob in Köln 🙂 today."
    visit.go(url)
    visit.run(Text=text)
    form = {"inputs": text, "parameters": {"aggregation_strategy": "simple"}}
    entities = httpx2.post(url, json=form, timeout=60).json()
    assert len(entities) >= 3
    told = [f"{text[one['start'] : one['end']]} {one['entity_group']} {percent(one['score'])}" for one in entities]
    assert visit.texts(".answer mark") == told


def test_a_label_is_chosen_among_those_that_were_given(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("zero-shot-classification"))
    visit.run(Text="a test", Labels="one, two,, two , three")
    assert sorted(visit.texts(".answer .name")) == ["one", "three", "two"]
    visit.page.get_by_label("Several labels").check()
    visit.run(Labels="")
    assert visit.text("#trouble") == "Give at least one label."


# What the answer to the first example consists of.
EXAMPLES = {
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


@pytest.mark.parametrize("task", TASKS)
def test_an_example_of_every_task_is_answered_and_its_calls_can_be_run(
    task: str, visit: Visit, url_of: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit.go(url_of(task))
    visit.page.click("#examples button >> nth=0")
    visit.answered()
    assert visit.text("#trouble") == ""
    assert visit.page.locator(EXAMPLES[task]).count() > 0
    assert visit.text("#status").startswith("Answered in ")
    if TASKS[task].takes_file:
        keep_file(visit, tmp_path)
    shown = visit.page.text_content("#json") or ""
    answer = answer_of_shell(visit.page.text_content("#snippet") or "", tmp_path)
    if task == "text-generation":  # it draws its words
        assert answer[0]["generated_text"].startswith("Once upon a time")
    else:
        assert_same(answer, json.loads(shown))
    visit.page.click("#tab-Python")
    monkeypatch.chdir(tmp_path)
    assert len(printed_by(visit.page.text_content("#snippet") or "", monkeypatch)) == 1


def printed_by(script: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a script in Python prints, as objects."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    printed: list[Any] = []
    exec(script, {"print": printed.append})  # noqa: S102 - it is ours
    return printed


def keep_file(visit: Visit, folder: Path) -> None:
    """The file that the page has made, where the calls look for it."""
    chosen = "document.querySelector('input[type=file]').files[0]"
    name, content = visit.module("calls.js", f"return [{chosen}.name, await m.base64Of({chosen})]")
    (folder / name).write_bytes(base64.b64decode(content))


def test_a_file_is_chosen_and_its_name_goes_into_the_calls(
    visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "my cat's.png").write_bytes(picture(1))
    url = url_of("image-classification")
    visit.go(url)
    visit.page.click("#run")
    assert visit.text("#trouble") == "Choose a file first."
    visit.page.set_input_files("input[type=file]", str(tmp_path / "my cat's.png"))
    visit.run()
    labels = httpx2.post(url, content=picture(1), headers={"content-type": "image/png"}, timeout=60).json()
    assert visit.texts(".answer .name") == [item["label"] for item in labels]
    assert answer_of_shell(visit.text("#snippet"), tmp_path) == labels
    visit.go(url := url_of("zero-shot-image-classification"))
    visit.page.set_input_files("input[type=file]", str(tmp_path / "my cat's.png"))
    visit.run(Labels='it\'s a "cat", 100 %s')
    assert answer_of_shell(visit.text("#snippet"), tmp_path) == json.loads(visit.page.text_content("#json") or "")


def answer_of_shell(command: str, folder: Path) -> Any:
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_what_is_copied_for_curl_is_right_in_a_shell(visit: Visit, bundled: Process, tmp_path: Path) -> None:
    visit.go(bundled.url)
    visit.run(Text=HOSTILE)
    visit.page.click("#copy")
    visit.page.wait_for_function("() => document.querySelector('#copied').textContent === 'Copied.'")
    copied = visit.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == visit.page.text_content("#snippet")
    assert answer_of_shell(copied, tmp_path) == json.loads(visit.page.text_content("#json") or "")


def test_what_is_copied_for_python_is_right(visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    visit.run(Text=HOSTILE)
    visit.page.click("#tab-Python")
    script = "import os; os.environ['HF_HUB_OFFLINE'] = '0'\n" + (visit.page.text_content("#snippet") or "")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (first, *_) = json.loads(visit.page.text_content("#json") or "")
    assert f"token={first['token']}, token_str='{first['token_str']}'" in done.stdout


def test_what_is_copied_for_javascript_is_right(visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    visit.run(Text=HOSTILE)
    visit.page.click("#tab-JavaScript")
    script = (visit.page.text_content("#snippet") or "").replace("console.log(", "return (")
    answer = visit.page.evaluate(f"async () => {{ {script} }}")
    assert answer == json.loads(visit.page.text_content("#json") or "")


@pytest.mark.skipif(shutil.which("node") is None, reason="There is no Node.js on this machine")
@pytest.mark.parametrize("task", ["image-classification", "zero-shot-image-classification"])
def test_what_is_copied_for_javascript_reads_files_in_node(
    task: str, visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    visit.go(url_of(task))
    (tmp_path / "it's.png").write_bytes(picture(1))
    visit.page.set_input_files("input[type=file]", str(tmp_path / "it's.png"))
    visit.run()
    visit.page.click("#tab-JavaScript")
    (tmp_path / "script.mjs").write_text(
        (visit.page.text_content("#snippet") or "").replace("await response.json()", "await response.text()")
    )
    done = subprocess.run(["node", "script.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == json.loads(visit.page.text_content("#json") or "")


# What goes wrong


def test_an_error_is_said_in_plain_words(careless: Visit, bundled: Process) -> None:
    careless.go(bundled.url)
    careless.run(Text="no mask here")
    assert careless.texts("#trouble p") == [
        "The model cannot work with this input.",
        "No mask_token ([MASK]) found on the input",
    ]
    assert careless.page.get_attribute("#trouble", "role") == "alert"
    assert all("422" in error for error in careless.errors)
    careless.run(Text="a [MASK]")
    assert careless.page.is_hidden("#trouble")


def test_a_server_that_is_gone_is_said_in_plain_words(careless: Visit, bundled: Process) -> None:
    careless.go(bundled.url)
    careless.page.context.set_offline(True)
    careless.run()
    assert careless.text("#trouble") == "The server cannot be reached. Is it running, and is this device online?"


def test_a_full_server_says_when_to_come_back(careless: Visit) -> None:
    settings = Settings(max_requests=1, max_inputs=1, drain_timeout_s=0.1)
    with serving_in_thread(create_app(settings, FakeRunner(gate=asyncio.Event()))) as url:
        careless.go(url)
        careless.page.evaluate("() => { fetch('.', {method: 'POST', body: 'held'}); }")
        careless.page.wait_for_function(
            "async () => /^pipeline_in_house 1/m.test(await (await fetch('metrics')).text())", polling=100
        )
        careless.run()
        first, *_, last = careless.texts("#trouble p")
        assert first == "The server is full right now."
        assert re.fullmatch(r"Try again in \d+ s\.", last)
        careless.page.goto("about:blank")  # it hangs up


def test_an_api_key_is_asked_for_and_kept_in_this_tab(
    careless: Visit, model_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = "text-classification"
    settings = Settings(**WITH_KEY, model=str(model_of(task)), task=task, accelerate=False)
    with serving_in_thread(create_app(settings)) as url:
        careless.page.goto(url)
        careless.wait_for("#key:not([hidden])")
        careless.page.get_by_label("API key").fill("wrong")
        careless.page.keyboard.press("Enter")
        careless.wait_for("#start-trouble:not([hidden])")
        assert "missing or wrong" in careless.text("#start-trouble")
        careless.page.get_by_label("API key").fill("secret")
        careless.page.keyboard.press("Enter")
        careless.wait_for("#loaded:not([hidden])")
        assert careless.page.is_hidden("#key")
        careless.run(Text="a test")
        assert "secret" not in careless.text("body")
        monkeypatch.setenv("KEY", "secret")
        answer = answer_of_shell(careless.page.text_content("#snippet") or "", tmp_path)
        assert_same(answer, json.loads(careless.page.text_content("#json") or ""))
        careless.page.click("#tab-Python")
        (labels,) = printed_by(careless.page.text_content("#snippet") or "", monkeypatch)
        assert [item.label for item in labels] == careless.texts(".answer .name")
        careless.go(url)  # without being asked again
        assert careless.page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]


def test_an_answer_of_an_unknown_form_is_shown_as_it_is(careless: Visit) -> None:
    with serving_in_thread(create_app(Settings(), FakeRunner())) as url:
        careless.go(url)
        careless.run(Text="a text")
        assert "does not know this form of answer" in careless.text(".answer")
        assert careless.page.text_content("#json") == '"A TEXT"'


def test_the_policy_stops_what_is_not_of_the_page(careless: Visit, bundled: Process) -> None:
    careless.go(bundled.url)
    careless.page.evaluate(
        """() => { const script = document.createElement("script"); script.textContent = "window.ran = true";
                   document.body.append(script); }"""
    )
    assert careless.page.evaluate("() => window.ran === undefined")
    assert any("Content Security Policy" in error for error in careless.errors)


# The server, watched


def test_the_charts_show_what_is_asked(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("fill-mask"))
    assert visit.texts(".chart h3") == [
        "Requests per second",
        "Latency",
        "Requests in a batch, mean",
        "Inputs in the house",
    ]
    visit.page.wait_for_function("() => document.querySelector('.chart .now').textContent !== '\\u2013'")
    visit.run()
    visit.page.wait_for_function("() => /L/.test(document.querySelector('.line').getAttribute('d'))")
    visit.page.wait_for_function("() => Number(document.querySelector('.chart .most').textContent) > 0")
    visit.page.wait_for_function("() => /M/.test(document.querySelectorAll('.line')[1].getAttribute('d'))")


def test_two_hundred_requests_ride_in_batches(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("text-classification"))
    visit.page.click("#burst-run")
    visit.wait_for("#burst-stop:not([hidden])")
    visit.page.wait_for_selector("#burst-stop", state="hidden")
    names = visit.texts(".results th[scope=row]")
    assert names == ["One after the other", "200 requests at once", "7 lists of up to 32"]
    rows = visit.page.locator(".results tbody tr")
    ridden = [
        {int(size): int(count) for size, count in zip(*(texts(row, part) for part in ("name", "number")), strict=True)}
        for row in rows.all()
    ]
    assert set(ridden[0]) == {1}
    assert sum(ridden[1].values()) == 200
    assert max(ridden[1]) > 1
    assert sum(ridden[2].values()) == 7
    assert re.search(r"a second\. One after the other: ", visit.text("#burst-status"))


def texts(row: Any, part: str) -> list[str]:
    return list(row.locator(f".sizes .{part}").all_inner_texts())


def test_a_burst_can_be_stopped(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("text-generation"))
    visit.page.click("#burst-run")
    visit.page.click("#burst-stop")
    visit.page.wait_for_function("() => document.querySelector('#burst-status').textContent === 'Stopped.'")


def test_files_have_no_burst(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("image-classification"))
    assert visit.page.is_hidden("#burst-run")


def test_the_model_and_its_speed_ups_are_told_as_info_tells_them(visit: Visit, bundled: Process) -> None:
    visit.go(bundled.url)
    info = httpx2.get(f"{bundled.url}/info").json()
    assert info["mask_token"] == "[MASK]"
    assert visit.text("h1") == info["model"] == "bert-small-english"
    assert visit.texts("#card dd")[:2] == ["fill-mask", "cpu"]
    assert visit.texts(".speed-ups code") == [one["name"] for one in info["speed_ups"]]
    assert visit.texts(".speed-ups .state") == ["on" if one["on"] else "off" for one in info["speed_ups"]]
    worth = [gain for one in info["speed_ups"] if one["on"] for gain in one["gains"].values()]
    assert visit.texts(".gain strong") == [f"{gain:.2f} \N{MULTIPLICATION SIGN}" for gain in worth]


# The documentation


@pytest.mark.parametrize("name", ["fill-mask", EMBEDDING, "image-classification", "automatic-speech-recognition"])
def test_the_documentation_shows_every_route_and_schema_and_its_calls_can_be_run(
    name: str, visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    visit.page.goto(f"{url_of(name)}docs")
    visit.wait_for("#schemas:not([hidden])")
    told = httpx2.get(f"{url_of(name)}openapi.json").json()
    routes = [f"{method.upper()} {path}" for path, methods in told["paths"].items() for method in methods]
    assert visit.texts("#routes h2") == routes
    assert visit.texts("#schemas h3") == list(told["components"]["schemas"])
    assert visit.text("h1") == told["info"]["title"]
    (tmp_path / "FILE").write_bytes(recording(noise(1)) if "speech" in name else picture(1))
    calls = [call for call in visit.texts("#routes pre") if " -d " in call or "@FILE" in call]
    assert len(calls) == sum(route.startswith("POST") for route in routes) + 1  # raw and as JSON
    for call in calls:
        assert "error" not in answer_of_shell(call, tmp_path)


def test_the_documentation_asks_for_the_api_key(careless: Visit) -> None:
    with serving_in_thread(create_app(Settings(**WITH_KEY), FakeRunner())) as url:
        careless.page.goto(f"{url}/docs")
        careless.page.get_by_label("API key").fill("secret")
        careless.page.keyboard.press("Enter")
        careless.wait_for("#schemas:not([hidden])")
        assert careless.page.is_hidden("#key")
        assert f'curl -H "Authorization: Bearer $KEY" {url}/info' in careless.texts("#routes pre")


# For everyone


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_are_accessible_and_fit(
    scheme: str, width: int, visits: Open, url_of: Callable[[str], str], bundled: Process
) -> None:
    opened = visits(color_scheme=scheme, viewport={"width": width, "height": 800})
    urls = [bundled.url, *(url_of(task) for task in ("token-classification", "table-question-answering"))]
    for url in urls:
        opened.go(url)
        opened.page.click("#examples button >> nth=0")
        opened.answered()
        opened.page.click("#raw summary")
        check_for_everyone(opened)
    opened.page.goto(f"{bundled.url}/docs")
    opened.wait_for("#schemas:not([hidden])")
    check_for_everyone(opened)
    opened.page.context.close()


def check_for_everyone(opened: Visit) -> None:
    opened.page.evaluate(axe())
    found = opened.page.evaluate("async () => await axe.run()")
    assert "color-contrast" in {one["id"] for one in found["passes"]}
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []
    assert opened.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


# Functions of the page by themselves


@pytest.fixture(scope="module")
def lab(visits: Open, bundled: Process) -> Iterator[Visit]:
    """A page to call functions in."""
    opened = visits().go(bundled.url)
    yield opened
    opened.page.context.close()


BUCKETS = [{"upTo": 0.1, "count": 0}, {"upTo": 0.2, "count": 10}, {"upTo": "inf", "count": 20}]
CALLS: list[tuple[str, str, list[Any], Any]] = [
    ("bars.js", "return given.map(m.percent)", [0.5561, 1, 0, 0.0004], ["55.6 %", "100.0 %", "0.0 %", "< 0.1 %"]),
    ("bars.js", "return given.map((ms) => m.duration(ms))", [0.4213, 12.345, 999.7], ["0.421 ms", "12.3 ms", "1 s"]),
    ("chart.js", "return given.map(m.roundUp)", [0, 0.3, 1, 17, 60], [1, 0.5, 1, 20, 100]),
    ("chart.js", "return m.pathOf(given, 4)", [2, None, 4], "M236.0 30.0h0M240.0 0.0h0"),
    (
        "api.js",
        "return m.timingOf(given[0])",
        ['queue;dur=1.25, model;dur=30.00, total;dur=32.50, batch;desc="7"'],
        {"queue": 1.25, "model": 30, "total": 32.5, "batch": 7},
    ),
    ("api.js", "return m.timingOf(null)", [], {}),
    (
        "exposition.js",
        r"return m.parse('# HELP a b\na{x=\"1,\\\"}\",le=\"+Inf\"} 2e3\nb 5 17\n')",
        [],
        [
            {"name": "a", "labels": {"x": '1,"}', "le": "+Inf"}, "value": 2000},
            {"name": "b", "labels": {}, "value": 5},
        ],
    ),
    (
        "exposition.js",
        "return [0.25, 0.5, 0.9].map((share) => m.quantile(share, given.map((b) => ({...b, upTo: Number(b.upTo)}))))",
        [*BUCKETS[:2], {"upTo": 1, "count": 20}],
        [pytest.approx(0.15), pytest.approx(0.2), pytest.approx(0.84)],
    ),
    ("exposition.js", "return m.quantile(0.5, [{upTo: 1, count: 0}, {upTo: Infinity, count: 3}])", [], 1),
    ("exposition.js", "return m.quantile(0.5, [{upTo: 1, count: 0}])", [], None),
    (
        "exposition.js",
        """const at = (n, sum) => m.parse(`pipeline_request_seconds_count{route="/"} ${n}
           pipeline_batch_size_count ${n}
           pipeline_batch_size_sum ${sum}
           pipeline_in_house 3`.replaceAll(/\\n\\s+/g, '\\n'));
           return m.between(at(10, 40), at(30, 140), 2)""",
        [],
        {"requestsPerSecond": 10, "p50Ms": None, "p99Ms": None, "batchSize": 5, "inHouse": 3},
    ),
    ("burst.js", "return m.parts(given, 3)", [1, 2, 3, 4], [[1, 2, 3], [4]]),
    ("burst.js", "return m.varied({text: 'a'}, 2)", [], [{"text": "a 1"}, {"text": "a 2"}]),
    (
        "entities.js",
        "return m.pieces('🙂ab c', [{start: 1, end: 3}, {start: 2, end: 4}]).map((one) => [one.text, !!one.entity])",
        [],
        [["🙂", False], ["ab", True], [" c", False]],
    ),
    (
        "vectors.js",
        "return [m.shapeOf(given), m.rowsOf(given).length, m.norm([3, 4])]",
        [[[1, 2], [3, 4]]],
        [[1, 2, 2], 2, 5],
    ),
    ("vectors.js", "return [1, -1, 0].map(m.colorOf)", [], [[255, 130, 0], [0, 110, 255], [255, 255, 255]]),
    ("guesses.js", "return m.byMask(given)", [{"score": 1}], [[{"score": 1}]]),
    ("calls.js", "return m.base64Of(new Blob([new Uint8Array(100000)]))", [], "A" * 133334 + "=="),
    ("calls.js", "return given.map(m.missingIn)", [{"text": " "}, {"file": None}, {"text": "a"}], None),
]


@pytest.mark.parametrize(("name", "body", "given", "wanted"), CALLS)
def test_a_function_of_the_page_gives(name: str, body: str, given: list[Any], wanted: Any, lab: Visit) -> None:
    if "missingIn" in body:
        wanted = ["Write a text first.", "Choose a file first.", ""]
    assert lab.module(name, body, *given) == wanted


def test_boxes_and_masks_lie_where_the_answer_says(lab: Visit) -> None:
    boxes = """const { drawing } = await import(new URL('static/file_field.js', location.href));
        const { node } = await m.render('object-detection', given, { file: await drawing() });
        const rect = node.querySelector('rect');
        return ['x', 'y', 'width', 'height'].map((name) => rect.getAttribute(name))
            .concat(node.querySelector('svg').getAttribute('viewBox'), node.querySelector('.legend').textContent);"""
    found = {"label": "house", "score": 0.9, "box": {"xmin": 60, "ymin": 70, "xmax": 140, "ymax": 155}}
    assert lab.module("answers.js", boxes, found) == ["60", "70", "80", "85", "0 0 320 200", "house 90.0 %"]
    masks = """const { drawing } = await import(new URL('static/file_field.js', location.href));
        const canvas = new OffscreenCanvas(320, 200);
        const pen = canvas.getContext('2d');
        pen.fillRect(0, 0, 320, 200);
        pen.fillStyle = 'white';
        pen.fillRect(0, 0, 160, 200);
        const { base64Of } = await import(new URL('static/calls.js', location.href));
        const mask = await base64Of(await canvas.convertToBlob());
        const answer = [{ label: 'left', score: null, mask }];
        const { node } = await m.render('image-segmentation', answer, { file: await drawing() });
        const layer = node.querySelector('canvas + canvas').getContext('2d');
        return [layer.getImageData(10, 10, 1, 1).data[3], layer.getImageData(310, 10, 1, 1).data[3]]"""
    assert lab.module("answers.js", masks) == [140, 0]
