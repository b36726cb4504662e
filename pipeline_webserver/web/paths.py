"""Where in the app a request goes, wherever the app is served: at the root, behind a prefix of a proxy, or mounted.

It must never know what is served there.
"""

from collections.abc import Collection

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path without the prefix that the app is served under, as Starlette matches it with routes.

    ASGI has the prefix in `root_path`, and at the beginning of `path`, too; some servers leave it out there.
    """
    path: str = scope["path"]
    rest = path.removeprefix(scope.get("root_path", ""))
    return rest if rest.startswith("/") else path


def remove_second_prefix(scope: Scope, paths: Collection[str]) -> None:
    """Remove the prefix once where it is there twice, unless with it, it is one of these paths of the app.

    uvicorn's `--root-path` is for proxies that strip the prefix: it is put in front of every path, also behind a proxy
    that has left it there.
    """
    path = route_path(scope)
    rest = path.removeprefix(scope.get("root_path", ""))
    if path not in paths and rest != path and rest.startswith("/"):
        scope["path"] = path
