"""The documents: their text, tables, examples, headings and links."""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDERS = ("docs", "benchmarks", "monitoring", "findings", "pipeline_webserver")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.md"))])
# What people read to use the server. The changelog has old names; the rest is for those who change the code.
GUIDES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def table(file: str, heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of a document, without its head."""
    section = (ROOT / file).read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@dataclass(frozen=True, slots=True)
class Example:
    """A block of code, and where it stands."""

    file: Path
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def tokens_of(file: Path) -> list[Token]:
    """Of Markdown as GitHub reads it; what stands before the text of a model's card is none."""
    text = re.sub(r"\A---\n.*?\n---\n", "", file.read_text(), flags=re.DOTALL)
    return MarkdownIt("commonmark").enable("table").parse(text)


def examples(language: str) -> list[Example]:
    """Each block of the guides in a language."""
    return [
        Example(file, token.map[0] + 1, token.content)
        for file in GUIDES
        for token in tokens_of(file)
        if token.type == "fence" and token.info == language and token.map
    ]


def anchors(file: Path) -> set[str]:
    """The names that GitHub gives to the headings."""
    tokens = tokens_of(file)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(file: Path) -> list[str]:
    """The targets of links and pictures, as they are written."""
    inline = [child for token in tokens_of(file) for child in token.children or ()]
    found = [str(token.attrs[name]) for token in inline for name in ("href", "src") if name in token.attrs]
    html = [token.content for token in [*inline, *tokens_of(file)] if token.type in {"html_inline", "html_block"}]
    return found + [target for text in html for target in re.findall(r'(?:href|src)="([^"]*)"', text)]
