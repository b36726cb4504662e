"""The task is read from all that a model's files say, and where it was read is known."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline_webserver.errors import ConfigurationError
from pipeline_webserver.inference.checkpoint import read_checkpoint
from tests.support.pipelines import SERVED
from tests.support.sentences import configure, normalize, pooling

CARD = "pipeline_tag in README.md"
CONFIG = "architectures in config.json"


def described(folder: Path, architectures: list[str] | None, tag: str | None = None, **files: Any) -> Path:
    """A folder without weights: a configuration, a model card with a tag, and other JSON files by their names."""
    write = {"config": {"model_type": "bert", "architectures": architectures}, **files}
    for name, content in write.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    if tag is not None:
        (folder / "README.md").write_text(f"---\npipeline_tag: {tag}\nlanguage: en\n---\n# A model\n")
    return folder


def read(folder: Path, task: str | None = None) -> tuple[str, str]:
    checkpoint = read_checkpoint(str(folder), None, task, SERVED)
    return checkpoint.task, checkpoint.task_source


def error_of(folder: Path, task: str | None = None) -> str:
    with pytest.raises(ConfigurationError) as raised:
        read_checkpoint(str(folder), None, task, SERVED)
    return str(raised.value)


@pytest.mark.parametrize(
    "architecture", ["BertForMaskedLM", "BertModel", "BertForPreTraining", "BertForSequenceClassification"]
)
def test_a_sentence_model_is_for_embeddings_whatever_class_it_was_saved_as(architecture: str, tmp_path: Path) -> None:
    folder = configure(described(tmp_path, [architecture], "fill-mask"), [pooling("mean"), normalize()])
    assert read(folder) == ("feature-extraction", "modules.json")
    assert read(folder, "fill-mask") == ("fill-mask", "PIPELINE_TASK")


def test_a_cross_encoder_has_modules_and_is_a_classifier(tmp_path: Path) -> None:
    folder = configure(described(tmp_path, ["BertForSequenceClassification"]), [])
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    assert read(folder) == ("text-classification", CONFIG)


@pytest.mark.parametrize(
    ("architectures", "tag", "expected"),
    [
        (["BertForMaskedLM"], None, ("fill-mask", CONFIG)),
        (["BertForMaskedLM"], "fill-mask", ("fill-mask", CARD)),
        (["BertForSequenceClassification"], "zero-shot-classification", ("zero-shot-classification", CARD)),
        (["BertForSequenceClassification"], "text-ranking", ("text-classification", CARD)),
        (["BertForMaskedLM"], "sentence-similarity", ("feature-extraction", CARD)),
        (["BertForMaskedLM"], "feature-extraction", ("feature-extraction", CARD)),
        (None, "ner", ("token-classification", CARD)),
        # What has no trained head is not for that task, whatever the card says.
        (["BertForMaskedLM"], "text-classification", ("fill-mask", CONFIG)),
        (["BertModel"], "fill-mask", ("feature-extraction", CONFIG)),
        (["BertForTokenClassification"], "zero-shot-classification", ("token-classification", CONFIG)),
        # Nor is it for one that is not served.
        (["BertForMaskedLM"], "translation", ("fill-mask", CONFIG)),
        # A text model's head is none of images, and the other way round.
        (["ViTForImageClassification"], "feature-extraction", ("image-classification", CONFIG)),
        (["ViTForImageClassification"], "image-feature-extraction", ("image-feature-extraction", CARD)),
    ],
)
def test_a_model_card_is_followed_where_the_weights_are_for_it(
    architectures: list[str] | None, tag: str | None, expected: tuple[str, str], tmp_path: Path
) -> None:
    assert read(described(tmp_path, architectures, tag)) == expected


@pytest.mark.parametrize("card", ["---\n: [\n---\n", "---\n- a\n---\n", "# No front matter", "---\nlanguage: en\n---"])
def test_a_card_that_says_nothing_is_passed_over(card: str, tmp_path: Path) -> None:
    (described(tmp_path, ["BertForMaskedLM"]) / "README.md").write_text(card)
    assert read(tmp_path) == ("fill-mask", CONFIG)


def test_a_model_is_called_as_its_card_says(tmp_path: Path) -> None:
    described(tmp_path, ["BertForMaskedLM"], "fill-mask")
    assert read_checkpoint(str(tmp_path), None, None, SERVED).name == "A model"


def test_a_model_that_says_how_it_generates_is_for_generation(tmp_path: Path) -> None:
    described(tmp_path, None, config={"model_type": "gpt2"}, generation_config={"max_new_tokens": 7})
    assert read(tmp_path) == ("text-generation", "generation_config.json")


def test_a_task_that_nothing_says_is_asked_for_with_all_that_was_found(tmp_path: Path) -> None:
    assert error_of(described(tmp_path, ["BertForNextSentencePrediction"], "translation")) == (
        f"'{tmp_path}' does not say its task (architectures: BertForNextSentencePrediction, pipeline_tag: translation)"
        "; set PIPELINE_TASK"
    )


@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_is_named_with_its_base_model(has_config: bool, tmp_path: Path) -> None:
    if has_config:
        described(tmp_path, ["BertForMaskedLM"])
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "team/base"})
    )
    assert error_of(tmp_path) == (
        f"'{tmp_path}' is an adapter (LORA) for 'team/base', which is not served by itself; merge them with peft "
        "(merge_and_unload, then save_pretrained, and save the tokenizer) and set PIPELINE_MODEL to that folder"
    )


@pytest.mark.parametrize("kinds", [["StaticEmbedding", "Normalize"], ["Router"], ["BERT", "Pooling"], ["CLIPModel"]])
def test_a_sentence_model_without_a_transformer_is_one_line_that_names_its_modules(
    kinds: list[str], tmp_path: Path
) -> None:
    listed = [{"path": "", "type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    for task in (None, "feature-extraction"):
        assert error_of(tmp_path, task) == (
            f"'{tmp_path}' cannot be served: it is a sentence-transformers model of {', '.join(kinds)}; "
            "served are those that begin with a Transformer; choose another model"
        )


def test_a_sentence_model_of_another_kind_is_not_taken_for_what_its_class_says(tmp_path: Path) -> None:
    kind = {"model_type": "SparseEncoder"}
    folder = described(tmp_path, ["BertForMaskedLM"], config_sentence_transformers=kind)
    assert error_of(configure(folder, [pooling("max")])) == (
        f"'{tmp_path}' has embeddings that cannot be served: it is a SparseEncoder, not a SentenceTransformer; "
        "choose another model, or set PIPELINE_TASK=feature-extraction to serve the model without embeddings"
    )
