"""From a model's name to a pipeline, or to one line that says what to do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.loading import explain_loading, is_folder_name, load, pick_device, pick_dtype, task_of
from tests.support.models import CLASSES, make_model


def refusal(model: str | Path, task: str | None = None, device: str = "cpu") -> str:
    with pytest.raises(ConfigurationError) as refused:
        load(str(model), task, None, device, None, tuple(TASKS))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("task", [task for task in CLASSES if task != "zero-shot-classification"])
def test_the_task_is_read_off_the_models_own_configuration(task: str, model_of: Callable[[str], Path]) -> None:
    assert task_of(str(model_of(task)), None) == task
    pipe = load(str(model_of(task)), None, None, "cpu", None, tuple(TASKS))
    assert (pipe.task, str(pipe.device), str(pipe.model.dtype)) == (task, "cpu", "torch.float32")


def test_a_dtype_that_was_asked_for_is_the_dtype(model_of: Callable[[str], Path]) -> None:
    pipe = load(str(model_of("fill-mask")), None, None, "cpu", "bfloat16", tuple(TASKS))
    assert str(pipe.model.dtype) == "torch.bfloat16"


@pytest.mark.parametrize(
    ("model", "is_folder"),
    [
        ("bert-base-uncased", False),
        ("google-bert/bert-base-uncased", False),
        ("./model", True),
        ("../model", True),
        ("/srv/model", True),
        ("~/model", True),
        ("models/mine/v2", True),
        ("models\\mine", True),
    ],
)
def test_a_name_that_no_hub_model_can_have_is_a_folder(model: str, is_folder: bool) -> None:
    assert is_folder_name(model) is is_folder


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"the folder '{tmp_path / 'none'}' does not exist; check PIPELINE_MODEL"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"cannot load '{tmp_path}': ")


@pytest.mark.parametrize("architectures", [None, ["BertForNextSentencePrediction"], ["T5ForConditionalGeneration"]])
def test_a_model_without_a_task_is_told_to_set_one(architectures: list[str] | None, tmp_path: Path) -> None:
    make_model("fill-mask", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    found = ", ".join(architectures or ["none"])
    assert refusal(tmp_path) == (
        f"'{tmp_path}' does not say what it is for (architectures: {found}); set PIPELINE_TASK"
    )


def test_a_task_that_is_not_served_is_told_which_are(model_of: Callable[[str], Path]) -> None:
    assert refusal(model_of("fill-mask"), "video-classification") == (
        f"the task 'video-classification' is not served; PIPELINE_TASK can be {', '.join(TASKS)}"
    )


def test_the_short_names_of_tasks_are_understood(model_of: Callable[[str], Path]) -> None:
    assert (
        load(str(model_of("token-classification")), "ner", None, "cpu", None, tuple(TASKS)).task
        == "token-classification"
    )


def test_a_model_that_brings_code_of_its_own_is_refused(tmp_path: Path) -> None:
    make_model("fill-mask", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "made-up", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **own}))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    assert refusal(tmp_path) == (
        f"'{tmp_path}' brings code of its own, which this server does not run; choose another model"
    )


def test_a_device_that_is_not_there_is_a_line_too(model_of: Callable[[str], Path]) -> None:
    assert "cannot load" in refusal(model_of("fill-mask"), device="cuda:7")


def test_the_hub_is_not_asked_when_it_is_off_and_the_line_says_so() -> None:
    assert refusal("bert-base-uncased") == (
        "HF_HUB_OFFLINE is set and 'bert-base-uncased' is not in the local cache; "
        "check the network and HF_ENDPOINT, or set PIPELINE_MODEL to a local folder"
    )


def test_the_reason_is_found_however_deep_it_was_wrapped() -> None:
    outer = OSError("first line\nsecond line")
    outer.__cause__ = ValueError()
    outer.__cause__.__context__ = LocalEntryNotFoundError("x")
    assert "is not in the local cache" in explain_loading("m", None, outer)
    assert explain_loading("m", None, OSError("first line\nsecond line")) == "cannot load 'm': first line"
    assert explain_loading("m", None, OSError()) == "cannot load 'm': OSError"


def test_on_a_cpu_the_default_is_float32_and_elsewhere_the_checkpoints() -> None:
    assert (pick_dtype(None, "cpu"), pick_dtype(None, "cuda:0"), pick_dtype("float16", "cpu")) == (
        "float32",
        "auto",
        "float16",
    )
    assert pick_device("cuda:3") == "cuda:3"
