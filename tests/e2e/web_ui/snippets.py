"""The snippets of the web UI, run as a user runs them."""

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.support.browser import Visit


def result_of_shell(command: str, folder: Path) -> Any:
    """What a command prints, read as JSON."""
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def printed_by(script: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a script in Python prints, as objects."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    printed: list[Any] = []
    exec(script, {"print": printed.append})  # noqa: S102 - the web UI wrote it
    return printed


def save_chosen_file(visit: Visit, folder: Path) -> None:
    """Save the file of the form where the snippets look for it."""
    chosen = "document.querySelector('input[type=file]').files[0]"
    name, content = visit.call("calls.js", f"return [{chosen}.name, await m.toBase64({chosen})]")
    (folder / name).write_bytes(base64.b64decode(content))
