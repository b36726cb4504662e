"""The server, watched: its model card, its optimizations, charts of its metrics, a burst in batches."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from config import Settings
from pipeline_webserver.model_info import ModelInfo, OptimizationReport
from server import create_app
from tests.support.browser import Visit
from tests.support.fakes import FakeRunner
from tests.support.process import serving_in_thread

TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass
class OptimizedRunner(FakeRunner):
    """A fake model with optimizations: applied, not applied, and applied without having been timed."""

    @property
    def info(self) -> ModelInfo:
        reports = (
            OptimizationReport("unpadding", True, 1e-7, {"in a batch": 1.234, "alone": 0.8}),
            OptimizationReport("last_layer", False, reason="it is not faster"),
            OptimizationReport("masked_head", True, reason="the default, not timed"),
        )
        return replace(super().info, model="team/a-model", name="A model", device="cpu", optimizations=reports)


def test_the_model_and_its_optimizations_are_those_of_info(visit: Visit) -> None:
    with serving_in_thread(create_app(Settings(), OptimizedRunner())) as url:
        visit.go(url)
        assert visit.text("h1") == "A model"
        assert visit.page.title() == "A model: fill-mask"
        assert visit.texts("#card dd")[:3] == ["fill-mask", "team/a-model", "cpu"]
        assert visit.texts(".optimizations code") == ["unpadding", "last_layer", "masked_head"]
        assert visit.texts(".optimizations .state") == ["on", "off", "on"]
        assert visit.texts(".gain") == [f"1.23 {TIMES} in a batch", f"0.80 {TIMES} alone: slower"]
        assert visit.texts(".optimizations .hint") == [
            "Not applied: it is not faster.",
            "Applied: the default, not timed.",
        ]


def test_the_charts_show_what_the_server_does(visit: Visit, bundled_url: str) -> None:
    visit.page.clock.install()
    visit.go(bundled_url)
    assert visit.texts(".chart h3") == ["Requests per second", "Latency", "Batch size, mean", "Inputs in flight"]
    next_second(visit, "document.querySelector('.chart .now').textContent === '0'")
    visit.run()
    next_second(visit, "/L/.test(document.querySelector('.line').getAttribute('d'))")
    assert float(visit.text(".chart .max")) > 0
    label = f"Requests per second: a line chart of the last two minutes, from 0 to {visit.text('.chart .max')}"
    assert visit.page.get_attribute(".plot", "aria-label") == label
    assert "M" in (visit.page.get_attribute(".line >> nth=1", "d") or "")


def next_second(visit: Visit, condition: str) -> None:
    """Let the page's clock go on by a second, and wait for the charts to be drawn."""
    visit.page.clock.run_for(1000)
    visit.page.wait_for_function(f"() => {condition}")


def test_two_hundred_requests_run_in_batches(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("text-classification"))
    visit.page.click("#burst-run")
    visit.wait_for("#burst-stop:not([hidden])")
    visit.page.wait_for_selector("#burst-stop", state="hidden")
    names = visit.texts(".results th[scope=row]")
    assert names == ["One after the other", "200 requests at once", "7 lists of up to 32"]
    one_by_one, at_once, lists = map(requests_by_batch_size, visit.page.locator(".results tbody tr").all())
    assert set(one_by_one) == {1}
    assert sum(at_once.values()) == 200
    assert max(at_once) > 1
    assert sum(lists.values()) == 7
    assert re.search(r"per second\. One after the other: ", visit.text("#burst-status"))


def requests_by_batch_size(row: Any) -> dict[int, int]:
    sizes, counts = (row.locator(f".sizes .{part}").all_inner_texts() for part in ("name", "number"))
    return {int(size): int(count) for size, count in zip(sizes, counts, strict=True)}


@pytest.mark.extended
def test_a_burst_can_be_stopped(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("text-generation"))
    visit.page.click("#burst-run")
    visit.page.click("#burst-stop")
    visit.page.wait_for_function("() => document.querySelector('#burst-status').textContent === 'Stopped.'")


@pytest.mark.extended
def test_files_have_no_burst(visit: Visit, url_of: Callable[[str], str]) -> None:
    visit.go(url_of("image-classification"))
    assert visit.page.is_hidden("#burst-run")
