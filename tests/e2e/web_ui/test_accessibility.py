"""Everyone can use the pages: no violation that axe finds, nothing wider than the window, in light and dark."""

from collections.abc import Callable

import pytest

from config import Settings
from server import create_app
from tests.support.browser import Open, Visit, axe
from tests.support.fakes import FakeRunner
from tests.support.process import serving_in_thread
from tests.support.sentences import EMBEDDING

LOOKS = [("light", 1280), ("dark", 390), ("dark", 1280), ("light", 390)]


def extended_but(*looks: tuple[str, int]) -> list[pytest.ParameterSet]:
    return [pytest.param(*look, marks=() if look in looks else pytest.mark.extended) for look in LOOKS]


@pytest.mark.parametrize(("scheme", "width"), extended_but(("dark", 390)))
def test_the_page_is_accessible_and_fits(scheme: str, width: int, open_visit: Open, bundled_url: str) -> None:
    visit = open_visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    run_and_check(visit, bundled_url)
    visit.close()


@pytest.mark.parametrize(("scheme", "width"), extended_but())
def test_the_documentation_is_accessible_and_fits(scheme: str, width: int, open_visit: Open, bundled_url: str) -> None:
    visit = open_visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    visit.page.goto(f"{bundled_url}/docs")
    visit.wait_for("#schemas:not([hidden])")
    visit.page.click("#routes summary")
    visit.page.click("#routes form .primary")
    visit.wait_for("#routes .result pre")
    check(visit)
    visit.close()


def test_the_longest_name_fits_on_a_phone(open_visit: Open) -> None:
    visit = open_visit(viewport={"width": 390, "height": 800})
    with serving_in_thread(create_app(Settings(name="n" * 100), FakeRunner())) as url:
        visit.go(url)
        assert visit.text("h1") == "n" * 100
        check_width(visit)
        visit.page.goto(f"{url}/docs")
        visit.wait_for("#schemas:not([hidden])")
        check_width(visit)
    visit.close()


@pytest.mark.extended
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_other_tasks_are_accessible_and_fit(
    scheme: str, width: int, open_visit: Open, url_of: Callable[[str], str]
) -> None:
    visit = open_visit(color_scheme=scheme, viewport={"width": width, "height": 800})
    for name in ["token-classification", "table-question-answering", EMBEDDING]:
        run_and_check(visit, url_of(name))
    visit.close()


def run_and_check(visit: Visit, url: str) -> None:
    visit.go(url)
    visit.run_example()
    visit.page.click("#raw summary")
    check(visit)


def check(visit: Visit) -> None:
    visit.page.evaluate(axe())
    report = visit.page.evaluate("async () => await axe.run()")
    assert "color-contrast" in {rule["id"] for rule in report["passes"]}
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in report["violations"]] == []
    check_width(visit)


def check_width(visit: Visit) -> None:
    assert visit.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
