"""What the modules of the installed transformers do to themselves in a pass, read from their source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import transformers

# Calls that change a list, a dictionary or a tensor in place.
IN_PLACE = {"append", "clear", "extend", "insert", "pop", "setdefault", "update", "add", "add_", "copy_", "fill_"}
IN_PLACE |= {"mul_", "div_", "sub_", "zero_"}
# A class is a module if it, or a class of its file that it is made from, derives from one of these.
MODULES = {"Module", "PreTrainedModel", "GradientCheckpointingLayer", "ModuleList", "Embedding"}

Found = dict[str, set[str]]


def scan() -> tuple[Found, Found]:
    """By family, the attributes that are replaced, and those that are changed in place, in a pass or in `generate`."""
    replaced: Found = {}
    in_place: Found = {}
    for path in sorted((Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")):
        for function in reached(ast.parse(path.read_text())):
            for attribute, is_replaced in writes(function):
                found = replaced if is_replaced else in_place
                found.setdefault(path.parent.name, set()).add(attribute)
    return replaced, in_place


def reached(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """The methods of modules that `forward` or `generate` of any class of the file may call, by their names."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    modules = set(MODULES)
    for node in classes:  # a class comes behind those that it is made from
        if any(name.endswith("PreTrainedModel") or name in modules for name in map(last_name, node.bases)):
            modules.add(node.name)
    methods: dict[str, list[ast.FunctionDef]] = {}
    for node in classes:
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and node.name in modules:
                methods.setdefault(item.name, []).append(item)
    names, todo = set[str](), ["forward", "generate"]
    while todo:
        name = todo.pop()
        if name in methods and name not in names | {"__init__"}:
            names.add(name)
            todo += [called for function in methods[name] for called in calls(function)]
    return (function for name in names for function in methods[name])


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def calls(function: ast.FunctionDef) -> set[str]:
    return {last_name(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}


def writes(function: ast.FunctionDef) -> Iterator[tuple[str, bool]]:
    """The attributes of `self` that a method changes, each with whether it is replaced, or changed in place."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for item in target.elts if isinstance(target, ast.Tuple | ast.List) else [target]:
                    yield from ((name, not isinstance(item, ast.Subscript)) for name in own_attribute(item))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in IN_PLACE:
            yield from ((name, False) for name in own_attribute(node.func.value))
        elif isinstance(node, ast.Call) and last_name(node.func) == "register_buffer":
            yield ast.unparse(node.args[0]).strip("'"), True


def own_attribute(node: ast.expr) -> list[str]:
    """`name` of `self.name`, also where it is `self.name[...]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    is_own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    return [node.attr] if is_own and isinstance(node, ast.Attribute) else []
