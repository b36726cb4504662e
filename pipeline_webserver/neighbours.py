"""Imports of the modules beside a file, whatever else has their names.

`server.py` needs its own `batching.py` and `config.py`; installed, they lie in `site-packages`, and uvicorn puts the
working directory before that, where a user may well have a `config.py`. It must never know which files these are.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class NeighbourFinder(MetaPathFinder):
    """Finds the top-level modules of these names in one folder, and no others."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self.folder]) if fullname in self.names else None


@contextmanager
def neighbours_of(file: str, *names: str) -> Iterator[None]:
    """Inside, an import of one of `names` is of the module beside `file`, even if another was imported already.

    That other one stays imported for those that have it, but the name is then the neighbour's.
    """
    folder = Path(file).parent
    for name in names:
        if name in sys.modules and not _lies_in(sys.modules[name], folder):
            del sys.modules[name]
    finder = NeighbourFinder(str(folder), names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    return module.__file__ is not None and Path(module.__file__).parent.resolve() == folder.resolve()
