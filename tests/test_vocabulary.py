"""Retired words stay retired: each concept has one word, the field's own, in code, tests, documents and monitoring."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each retired word in any case, also within `snake_case`: what stands for it now, and what must not come back.
WORDS = [
    ("houses?", "admission control, in flight", "pipeline_in_house"),
    ("ordeals?", "chaos test", "python -m tests.ordeal"),
    ("(speed|sped)[-_ ]?ups?", "optimization", "SPEED_UPS"),
    ("(hung|hangs?|hanging)[-_ ]?ups?", "disconnect", "hang-ups"),
    ("guess(es|ed|ing)?", "prediction", "guesses_at_a_mask"),
    ("whoever|nobody", "the noun", "test_nobody_waits"),
    ("patience|impatience|impatient", "time-out", "PATIENCE_S"),
    ("forecasts?", "latency estimate", "Forecast"),
    ("abandon(s|ed|ing)?", "cancelled", "abandoned"),
    ("all[-_ ]clear", "recovery", "on_all_clear"),
]
# Each retired name, as it was written.
NAMES = [
    ("LoadedPipeline|PipelineThread", "PipelineRunner, InferenceThread", "PipelineThread"),
    (r"class Passes|Passes(?=\()|run_strictly|try_sharing", "ForwardRunner, calibration", "Passes(pipe)"),
    (r"Envelope|HttpToolsImpatience", "middlewares, SlowClientGuard", "Envelope"),
    (r"_?(MOST|LEAST)_[A-Z]\w*", "MAX_, MIN_", "_MOST_BODIES"),
    ("answer_everyone|until_empty", "fail_all, wait_until_idle", "house.answer_everyone"),
    ("is_stuck|over_a_call|on_progress|idle_s", "is_stalled, watching, heartbeat, stalled_s", "on_progress"),
    ("leave_at_once|on_termination", "exit_without_teardown, graceful_shutdown", "leave_at_once"),
    ("why_alone|why_not_padded|padding_is_free", "BatchStrategy", "passes.why_alone"),
    ("stretched_positions|forget_lengths|dynamic_rope_modules", "ModuleState", "forget_lengths"),
    ("cut_padding|enough_tokens", "strip_padding, saturating_tokens", "cut_padding"),
    (r"([A-Z]\w*)?Preparation|Draft", "Preprocessor, CheckedInput", "SpeechPreparation"),
    ("own_error|takes_long", "or_input_error, is_slow", "own_error"),
    ("Packing|NoPadding|no_padding|attend_by_row", "UnpaddedBatch, Unpadding, varlen_attention", "no_padding"),
    ("DoesNotFit|stack_of|change_tensors", "NotApplicable, encoder_layers, map_tensors", "stack_of"),
    (r"pipeline_refused\w*", "pipeline_rejected", "pipeline_refused_total"),
    ('reason="(full|late)', "queue_full, deadline", '{reason="late"}'),
    (r"serve run cluster:app", "deploy.ray_serve:app", "serve run cluster:app"),
    (r"models/(train|bert-small-english)", "bundled_model, tools", "python models/train.py"),
]
# The changelog lists what was renamed; a license is a license; the rest is data, or a record of a run.
EXCLUDED = {"CHANGELOG.md", "LICENSE", "constraints.txt", "tests/test_vocabulary.py"}
DATA = re.compile(r"^benchmarks/results/|/tokenizer(_config)?\.json$|\.(png|safetensors)$")


def retired_words(patterns: Sequence[str]) -> re.Pattern[str]:
    """For texts in lower case. The bounds stand outside, so that few places are looked at."""
    return re.compile(rf"(?<![a-z])(?:{'|'.join(patterns)})(?![a-z])")


def retired_names(patterns: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b")


ALL_WORDS = retired_words([pattern for pattern, _, _ in WORDS])
ALL_NAMES = retired_names([pattern for pattern, _, _ in NAMES])


def project_files() -> list[str]:
    """The text files of the project: those that git tracks or would track, by their paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is not a git checkout")
    return [name for name in listed if name not in EXCLUDED and not DATA.search(name) and (ROOT / name).is_file()]


def retired_in(text: str) -> list[tuple[int, str]]:
    """Each retired word or name, with the number of its line."""
    matches = [*ALL_WORDS.finditer(text.lower()), *ALL_NAMES.finditer(text)]
    return sorted((text.count("\n", 0, match.start()) + 1, match[0]) for match in matches)


def test_no_retired_word_is_left() -> None:
    found = [
        f"{name}:{line}: {retired}"
        for name in project_files()
        for line, retired in retired_in((ROOT / name).read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(("pattern", "replacement", "example"), WORDS + NAMES)
def test_each_pattern_finds_its_example(pattern: str, replacement: str, example: str) -> None:
    found = retired_words([pattern]).search(example.lower()) or retired_names([pattern]).search(example)
    assert found, f"{example!r} is now {replacement!r}"


def test_a_find_is_a_line_and_a_word() -> None:
    assert retired_in("one\nof the House\nNoPadding") == [(2, "house"), (3, "NoPadding")]


def test_other_words_may_contain_a_retired_one() -> None:
    assert retired_in("a warehouse, the speed, Passes of one length, bundled_model/bert-small-english") == []
