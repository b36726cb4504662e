"""A snippet that is copied runs as it is, whatever the text has in it."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.web_ui.snippets import printed_by, result_of_shell
from tests.support.browser import Open, Visit
from tests.support.media import picture

# Nothing in it may mean anything to a shell, to Python or to JavaScript.
HOSTILE = """it's "a" `test` $HOME $(id) \\n \\ % %s {} ${x} <b> & ; é 漢 🙂
the second [MASK] line"""


@pytest.fixture(scope="module")
def hostile(open_visit: Open, bundled_url: str) -> Iterator[Visit]:
    """A page with the hostile text and its answer."""
    opened = open_visit().go(bundled_url)
    opened.run(Text=HOSTILE)
    yield opened
    opened.close()
    assert opened.errors == []


def test_the_snippet_for_curl_is_copied_and_right_in_a_shell(hostile: Visit, tmp_path: Path) -> None:
    hostile.page.click("#copy")
    hostile.page.wait_for_function("() => document.querySelector('#copied').textContent === 'Copied.'")
    copied = hostile.page.evaluate("() => navigator.clipboard.readText()")
    assert copied == hostile.hidden_text("#snippet")
    assert result_of_shell(copied, tmp_path) == hostile.answer()


def test_the_snippet_for_python_is_right(hostile: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile.page.click("#tab-Python")
    (predictions,) = printed_by(hostile.hidden_text("#snippet"), monkeypatch)
    answer = hostile.answer()
    assert [{name: getattr(item, name) for name in answer[0]} for item in predictions] == answer


def test_the_snippet_for_javascript_is_right(hostile: Visit) -> None:
    hostile.page.click("#tab-JavaScript")
    script = hostile.hidden_text("#snippet").replace("console.log(", "return (")
    assert hostile.page.evaluate(f"async () => {{ {script} }}") == hostile.answer()


@pytest.mark.skipif(shutil.which("node") is None, reason="There is no Node.js on this machine")
@pytest.mark.parametrize(
    "task", [pytest.param("image-classification", marks=pytest.mark.extended), "zero-shot-image-classification"]
)
def test_the_snippet_for_javascript_reads_files_in_node(
    task: str, visit: Visit, url_of: Callable[[str], str], tmp_path: Path
) -> None:
    visit.go(url_of(task))
    (tmp_path / "it's.png").write_bytes(picture(1))
    visit.page.set_input_files("input[type=file]", str(tmp_path / "it's.png"))
    visit.run()
    visit.page.click("#tab-JavaScript")
    script = visit.hidden_text("#snippet").replace("await response.json()", "await response.text()")
    (tmp_path / "script.mjs").write_text(script)
    done = subprocess.run(["node", "script.mjs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == visit.answer()
