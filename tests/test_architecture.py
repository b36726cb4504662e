"""The house keeps its order: imports run one way, names shadow nothing, files say what they own."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each module may import of ours. Nothing else does, and nothing imports upwards.
MAY_IMPORT: dict[str, set[str]] = {
    "cluster": {"config", "server"},
    "server": {
        "answering",
        "openai_embeddings",
        "about",
        "page",
        "asgi",
        "batching",
        "config",
        "connections",
        "envelope",
        "errors",
        "failures",
        "loading",
        "logs",
        "pipeline_thread",
        "policy",
        "preparing",
        "protocol",
        "tasks",
    },
    "envelope": {"logs", "metrics", "tracing"},
    "failures": {"envelope", "errors", "protocol"},
    "tracing": set(),
    "connections": set(),
    "answering": {"asgi", "envelope", "errors", "house"},
    "asgi": {"errors"},
    "batching": {"errors", "house", "metrics", "policy", "watch"},
    "watch": set(),
    "house": {"errors", "metrics", "policy"},
    "policy": set(),
    "pipeline_thread": {"errors", "inference", "preparing"},
    "inference": {"acceleration", "errors", "metrics", "packing", "passes", "preparing", "reading", "stages"},
    "stages": {"errors", "features", "fillmask", "preparing", "prompts", "texts"},
    "features": {"embedding", "errors", "preparing", "texts"},
    "embedding": {"errors", "modelfiles", "pooling"},
    "pooling": {"errors"},
    "modelfiles": {"errors"},
    "texts": {"errors", "passes", "preparing"},
    "prompts": {"errors", "passes", "preparing", "texts"},
    "tables": {"errors", "passes", "preparing"},
    "files": {"passes", "preparing"},
    "images": {"errors", "files", "preparing"},
    "sound": {"errors", "files", "preparing"},
    "preparing": {"errors", "passes"},
    "fillmask": set(),
    "passes": {"acceleration", "errors", "joining", "metrics", "planning"},
    "joining": set(),
    "planning": set(),
    "acceleration": {"errors", "hooks", "onednn", "packing", "reading"},
    "reading": {"hooks", "onednn", "packing"},
    "packing": {"hooks", "onednn"},
    "onednn": {"hooks"},
    "hooks": set(),
    "protocol": {"errors", "tasks"},
    "openai_embeddings": {"errors", "protocol", "tasks"},
    "about": {"config", "openapi", "schemas", "tasks"},
    "page": set(),
    "openapi": {"openai_embeddings", "schemas"},
    "schemas": {"tasks"},
    "tasks": {"errors"},
    "loading": {"errors"},
    "config": set(),
    "errors": set(),
    "logs": set(),
    "metrics": set(),
}
# What each module must never know.
MUST_NOT_KNOW: dict[str, set[str]] = {
    "cluster": {"torch", "transformers", "asyncio"},
    "server": {"torch", "transformers"},
    "envelope": {"torch", "transformers"},
    "tracing": {"starlette", "uvicorn", "torch", "transformers"},
    "connections": {"starlette", "torch", "transformers"},
    "answering": {"torch", "transformers"},
    "asgi": {"torch", "transformers"},
    "failures": {"uvicorn", "torch", "transformers"},
    "watch": {"starlette", "uvicorn", "torch", "transformers"},
    "house": {"starlette", "uvicorn", "torch", "transformers", "json", "orjson", "pydantic"},
    "policy": {"starlette", "uvicorn", "torch", "transformers", "asyncio", "time"},
    "planning": {"starlette", "uvicorn", "torch", "transformers", "asyncio", "time"},
    "passes": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "acceleration": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "reading": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "packing": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "onednn": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "hooks": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "fillmask": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "batching": {"starlette", "uvicorn", "torch", "transformers", "json", "orjson", "pydantic"},
    "pipeline_thread": {"starlette", "uvicorn", "orjson", "pydantic"},
    "inference": {"starlette", "uvicorn", "asyncio", "orjson", "pydantic"},
    **{
        module: {"starlette", "uvicorn", "asyncio", "orjson", "pydantic"}
        for module in (
            "preparing",
            "stages",
            "texts",
            "prompts",
            "tables",
            "files",
            "images",
            "sound",
            "joining",
            "features",
            "embedding",
        )
    },
    "about": {"starlette", "uvicorn", "torch", "transformers", "asyncio"},
    "page": {"uvicorn", "torch", "transformers"},
    "openapi": {"starlette", "uvicorn", "torch", "transformers", "asyncio"},
    "schemas": {"starlette", "uvicorn", "torch", "transformers", "asyncio"},
    "openai_embeddings": {"starlette", "uvicorn", "torch", "transformers", "asyncio"},
    "tasks": {"starlette", "uvicorn", "torch", "transformers", "asyncio", "orjson"},
    "loading": {"starlette", "uvicorn", "asyncio", "pydantic"},
    "protocol": {"starlette", "uvicorn", "torch", "transformers", "asyncio"},
    "errors": {"http", "starlette"},
    "metrics": {"asyncio", "starlette"},
}
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))


def imports_of(module: str) -> set[str]:
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_every_module_has_its_place_here() -> None:
    assert set(MODULES) == set(MAY_IMPORT)


def test_the_guide_draws_the_same_house() -> None:
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    drawn = {
        module: set(re.findall(r"`(\w+)`", imports))
        for modules, imports in rows
        for module in re.findall(r"`(\w+)\.py`", modules)
    }
    assert drawn == MAY_IMPORT


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_it_may_and_no_other(module: str) -> None:
    assert MAY_IMPORT[module] == imports_of(module) & set(MODULES)


@pytest.mark.parametrize("module", sorted(MUST_NOT_KNOW))
def test_a_module_does_not_know_what_it_must_never_know(module: str) -> None:
    assert not imports_of(module) & MUST_NOT_KNOW[module]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_shadows_one_of_the_standard_library_or_of_a_dependency(module: str) -> None:
    assert module not in sys.stdlib_module_names
    owners = importlib.metadata.packages_distributions().get(module, [])
    assert {owner.lower() for owner in owners} <= {"pipeline-webserver"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_opens_with_what_it_owns(module: str) -> None:
    assert len((ast.get_docstring(ast.parse((ROOT / f"{module}.py").read_text())) or "").split()) > 10


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_tests(module: str) -> None:
    through_others = {"answering", "asgi", "envelope", "failures", "hooks", "metrics"}
    if module not in through_others:
        assert (ROOT / "tests" / f"test_{module}.py").is_file()
