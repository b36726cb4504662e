"""The exception tree is as it is drawn."""

import pytest

from pipeline_webserver import errors


def test_a_refusal_carries_when_to_retry() -> None:
    assert errors.Overloaded("The server is at capacity.").retry_after_s == 1
    assert errors.Draining("The server is shutting down.", 7).retry_after_s == 7


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("  \n one \n"), "one"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_the_first_line_of_an_error_is_its_message_or_its_class(error: BaseException, line: str) -> None:
    assert errors.first_line(error) == line


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    def draw(kind: type[Exception], depth: int = 0) -> list[tuple[int, str]]:
        below = [line for child in kind.__subclasses__() for line in draw(child, depth + 1)]
        return [(depth, kind.__name__), *below]

    assert errors.__doc__ is not None
    drawn = errors.__doc__[errors.__doc__.index("PipelineServerError") :].splitlines()
    names = [((len(line) - len(line.lstrip("│├└─ "))) // 4, line.lstrip("│├└─ ").split()[0]) for line in drawn]
    assert sorted(names) == sorted(draw(errors.PipelineServerError))
