"""From a model's name to a pipeline, or to one line that says what to do."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.checkpoint import class_names, read_checkpoint
from pipeline_webserver.inference.loading import (
    BUNDLED_MODEL,
    is_folder_name,
    load,
    pick_device,
    pick_dtype,
)
from tests.inference.conftest import ServeHub
from tests.support.models import CLASSES, make_model
from tests.support.pipelines import SERVED, load_pipeline


def error_of(model: str | Path, task: str | None = None, device: str = "cpu") -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(str(model), task, None, device, None, SERVED)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("task", [task for task in CLASSES if task != "zero-shot-classification"])
def test_the_task_is_that_of_the_architecture_in_the_models_configuration(
    task: str, model_of: Callable[[str], Path]
) -> None:
    assert read_checkpoint(str(model_of(task)), None, None, SERVED).task == task
    pipe = load_pipeline(model_of(task))
    assert (pipe.task, str(pipe.device), str(pipe.model.dtype)) == (task, "cpu", "torch.float32")


def test_a_dtype_that_is_set_is_used(model_of: Callable[[str], Path]) -> None:
    pipe = load_pipeline(model_of("fill-mask"), dtype="bfloat16")
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
    assert error_of(tmp_path / "none") == f"the folder '{tmp_path / 'none'}' does not exist; check PIPELINE_MODEL"


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    assert error_of(tmp_path).startswith(f"cannot load '{tmp_path}': ")


@pytest.mark.parametrize("architectures", [None, ["BertForNextSentencePrediction"], ["T5ForConditionalGeneration"]])
def test_a_model_without_a_task_needs_the_setting(architectures: list[str] | None, tmp_path: Path) -> None:
    make_model("fill-mask", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": architectures}))
    found = ", ".join(architectures or ["none"])
    assert error_of(tmp_path) == f"'{tmp_path}' does not say its task (architectures: {found}); set PIPELINE_TASK"


def test_a_task_that_is_not_served_is_an_error_that_names_those_that_are(model_of: Callable[[str], Path]) -> None:
    assert error_of(model_of("fill-mask"), "video-classification") == (
        f"the task 'video-classification' is not served; PIPELINE_TASK can be {', '.join(TASKS)}"
    )


def test_the_aliases_of_tasks_are_known(model_of: Callable[[str], Path]) -> None:
    assert load_pipeline(model_of("token-classification"), "ner").task == "token-classification"


def test_a_model_that_brings_code_of_its_own_is_an_error(tmp_path: Path) -> None:
    make_model("fill-mask", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    own = {"model_type": "made-up", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **own}))
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    assert error_of(tmp_path) == (
        f"'{tmp_path}' brings code of its own, which this server does not run; choose another model"
    )


def test_a_device_that_is_not_there_is_an_error_of_one_line(model_of: Callable[[str], Path]) -> None:
    assert "cannot load" in error_of(model_of("fill-mask"), device="cuda:7")


def test_offline_a_model_that_is_not_in_the_cache_is_an_error_that_says_so() -> None:
    assert error_of("bert-base-uncased") == (
        "HF_HUB_OFFLINE is set and 'bert-base-uncased' is not in the local cache; "
        "check the network and HF_ENDPOINT, or set PIPELINE_MODEL to a local folder"
    )


def test_the_default_dtype_is_float32_on_a_cpu_and_elsewhere_that_of_the_checkpoint() -> None:
    assert (pick_dtype(None, "cpu"), pick_dtype(None, "cuda:0"), pick_dtype("float16", "cpu")) == (
        "float32",
        "auto",
        "float16",
    )
    assert pick_device("cuda:3") == "cuda:3"


def test_without_a_name_it_is_the_bundled_model() -> None:
    pipe = load_pipeline(None)
    assert (pipe.task, pipe.model.name_or_path) == ("fill-mask", BUNDLED_MODEL)


def test_a_pipeline_keeps_the_revision_that_its_model_was_loaded_at(model_of: Callable[[str], Path]) -> None:
    pipe = load(str(model_of("fill-mask")), None, "v1", "cpu", None, SERVED)
    assert pipe.checkpoint.revision == "v1"


def test_a_mapping_lists_each_class_also_where_a_family_has_several() -> None:
    assert {"DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"} <= class_names(
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"
    )


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertModel", "feature-extraction"),
        ("ViTModel", "image-feature-extraction"),  # it is in both mappings
        ("BertForMaskedLM", "fill-mask"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
        ("SegformerForSemanticSegmentation", "image-segmentation"),
        ("CLIPModel", "zero-shot-image-classification"),
    ],
)
def test_an_architecture_of_several_tasks_is_for_the_most_particular(
    architecture: str, task: str, tmp_path: Path
) -> None:
    config = {"model_type": "bert", "architectures": [architecture]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_checkpoint(str(tmp_path), None, None, SERVED).task == task


def test_a_model_that_the_hub_does_not_have_is_said_whichever_file_was_asked_for_first(
    model_of: Callable[[str], Path], serve_hub: ServeHub
) -> None:
    with serve_hub({"team/model": model_of("fill-mask")}):
        assert error_of("team/other") == (
            f"there is no model 'team/other' at {constants.ENDPOINT}; check PIPELINE_MODEL, or set HF_TOKEN if it is "
            "private"
        )


def test_the_log_says_what_the_start_is_at(model_of: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = model_of("fill-mask")
    with caplog.at_level("INFO", "pipeline_webserver"):
        load_pipeline(folder)
    *lines, last = caplog.messages
    assert lines == [f"Loading {folder}.", "The task is fill-mask, by architectures in config.json."]
    assert re.fullmatch(r"Loaded in \d+\.\d s\.", last)


def test_the_table_of_transformers_is_not_in_the_way_of_the_line(
    model_of: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    pipe = load_pipeline(model_of("fill-mask"), "token-classification")
    assert pipe.untrained == ("classifier.bias", "classifier.weight")
    assert not [record for record in caplog.records if record.name.startswith("transformers")]
