"""A model card, the README.md of a model: the task and the name that its authors gave it.

It must never know what the task and the name are used for, nor how the file came here.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

logger = logging.getLogger(__name__)

MAX_NAME = 100
# The template of huggingface_hub has this in place of a name.
PLACEHOLDER = "Model ID"
_FRONT_MATTER = re.compile(r"\A\s*---\s*\n.*?\n---\s*\n", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """`tag` is the task of the front matter, `name` its `model_name`, `heading` the text's first one; empty without."""

    tag: str = ""
    name: str = ""
    heading: str = ""

    def name_of(self, model: str) -> str:
        """What to call a model that was loaded by this Hub id or from this folder.

        A heading is prose, so it is only for folders, which are often called `model` or `checkpoint-500`: an id is a
        name that the authors chose.
        """
        path = Path(model)
        return self.name or (self.heading if path.is_dir() else "") or path.name or model


def read_card(path: Path | None) -> ModelCard:
    """Empty where there is none, and what of it cannot be read: people write it by hand."""
    if path is None:
        return ModelCard()
    try:
        front_matter = huggingface_hub.metadata_load(path) or {}
    except Exception as error:  # the parser's errors are of a library's own
        logger.warning("The front matter of the model card cannot be read: %s", type(error).__name__)
        return ModelCard()
    heading = first_heading(path.read_text(encoding="utf-8-sig"))
    return ModelCard(str(front_matter.get("pipeline_tag") or ""), as_name(front_matter.get("model_name")), heading)


def first_heading(text: str) -> str:
    """Without markup, and without the words that the template of a card has before the name; empty if it is no name."""
    body = _FRONT_MATTER.sub("", text).partition("```")[0]
    found = re.search(r"^#[ \t]+(.+?)[ \t#]*$", body, re.MULTILINE)
    plain = _LINK.sub(r"\1", found[1]) if found else ""
    name = as_name(re.sub(r"[`*]|<[^>]*>", "", plain)).removeprefix("Model Card for ").strip()
    return "" if name == PLACEHOLDER else name


def as_name(value: object) -> str:
    """A short text on one line; empty if it is none."""
    name = " ".join(value.split()) if isinstance(value, str) else ""
    return name if name.isprintable() and len(name) <= MAX_NAME else ""
