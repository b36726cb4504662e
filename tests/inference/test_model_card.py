"""The name of a model: what its card says, or that of its folder or its id."""

from pathlib import Path

import pytest

from pipeline_webserver.inference.model_card import MAX_NAME, ModelCard, read_card


def card(folder: Path, text: str) -> ModelCard:
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return read_card(path)


@pytest.mark.parametrize(
    ("text", "tag", "name"),
    [
        ("---\nmodel_name: Tiny BERT\npipeline_tag: fill-mask\n---\n# A heading\n", "fill-mask", "Tiny BERT"),
        ("---\nlanguage: en\n---\n\n# all-MiniLM-L6-v2\nThis is\n# Another\n", "", "all-MiniLM-L6-v2"),
        ("# `BERT` [base](https://a.b) *model* <a id='x'></a> #\n", "", "BERT base model"),
        ("Some text\n\n# Model Card for Zephyr 7B\n", "", "Zephyr 7B"),
        ("---\nmodel_name: 'two\n\n  lines'\n---\n", "", "two lines"),
    ],
)
def test_a_card_names_its_model_in_the_front_matter_or_in_the_first_heading(
    text: str, tag: str, name: str, tmp_path: Path
) -> None:
    read = card(tmp_path, text)
    assert (read.tag, read.name_of(str(tmp_path))) == (tag, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No heading\n## A second one\n",
        "```\n# a comment\n```\n",
        "# Model Card for Model ID\n",
        f"# {'a' * (MAX_NAME + 1)}\n",
        "# a\x07bell\n",
        "---\nmodel_name: 7\n---\n",
        "---\n: [\n---\n# A model\n",
    ],
)
def test_without_a_name_in_the_card_a_model_is_called_as_its_folder(text: str, tmp_path: Path) -> None:
    assert card(tmp_path, text).name_of(str(tmp_path)) == tmp_path.name


def test_a_card_that_is_no_text_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    assert read_card(tmp_path / "README.md") == ModelCard()


def test_a_model_of_the_hub_is_called_by_the_last_part_of_its_id_whatever_the_heading_says() -> None:
    assert ModelCard(heading="About this model").name_of("team/tiny-bert") == "tiny-bert"
    assert ModelCard(name="Tiny BERT", heading="About this model").name_of("team/tiny-bert") == "Tiny BERT"
    assert ModelCard().name_of("bert-base-uncased") == "bert-base-uncased"
