"""The tasks that are served: everything that depends on which one it is stands in its entry."""

import tomllib
from dataclasses import fields
from pathlib import Path

import huggingface_hub
import pytest
from transformers.models.auto import modeling_auto

from pipeline_webserver.api import tasks
from pipeline_webserver.api.parameters import NEUTRAL
from pipeline_webserver.api.tasks import TASKS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TASKS)
def test_every_parameter_is_one_of_the_official_specification(name: str) -> None:
    task = TASKS[name]
    if name != "image-feature-extraction":  # it has none
        assert any(kind.__module__.startswith(huggingface_hub.__name__) for kind in task.specification.__mro__)
    assert set(task.parameters) <= {field.name for field in fields(task.specification)}
    assert set(task.parameters_model.model_fields) - NEUTRAL.keys() == set(task.parameters) - NEUTRAL.keys()


@pytest.mark.parametrize("name", TASKS)
def test_the_architectures_are_lists_of_classes_that_transformers_has(name: str) -> None:
    for mapping in TASKS[name].architectures:
        assert getattr(modeling_auto, mapping)


def test_a_task_that_has_no_classes_of_its_own_must_be_set() -> None:
    assert [name for name, task in TASKS.items() if not task.architectures] == ["zero-shot-classification"]


def test_no_list_of_classes_is_of_two_tasks() -> None:
    mappings = [mapping for task in TASKS.values() for mapping in task.architectures]
    assert len(set(mappings)) == len(mappings)


@pytest.mark.parametrize("name", TASKS)
def test_the_preprocessor_is_a_class_in_a_file_of_inference(name: str) -> None:
    module, _, class_name = TASKS[name].preprocessor.partition(".")
    file = ROOT / "pipeline_webserver" / "inference" / "preprocessing" / f"{module}.py"
    assert f"\nclass {class_name}(" in file.read_text()


def test_what_a_task_needs_besides_is_a_group_of_optional_dependencies() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {task.input_kind: task.extra for task in TASKS.values()}
    assert extras == {"text": None, "table": "tables", "image": "media", "audio": "media"}
    assert {extra for extra in extras.values() if extra} <= groups.keys()


def test_files_may_be_larger_than_texts() -> None:
    assert {TASKS[name].max_body_bytes for name in ("fill-mask", "table-question-answering")} == {2**20}
    assert {task.max_body_bytes for task in TASKS.values() if task.is_file} == {2**24}
    assert {task.input_kind for task in TASKS.values() if task.is_file} == {"image", "audio"}


@pytest.mark.parametrize("name", TASKS)
def test_the_example_has_the_parameters_that_a_request_must_have(name: str) -> None:
    assert list(TASKS[name].example_parameters) == TASKS[name].required_parameters


def test_the_example_of_a_text_with_a_mask_has_the_models_own_mask_token() -> None:
    assert TASKS["fill-mask"].example_for("<mask>") == "Paris is the <mask> of France."
    assert TASKS["text-classification"].example_for(None) == "I like it."
    assert TASKS["table-question-answering"].example_for(None)["question"] == "How old is Bob?"


def test_no_other_file_of_the_api_names_a_task() -> None:
    others = {path for path in Path(tasks.__file__).parent.glob("*.py") if path.name != "tasks.py"}
    assert {path.name: name for path in others for name in TASKS if f'"{name}"' in path.read_text()} == {}
