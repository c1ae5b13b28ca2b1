"""Private names of torch are used only in `dashpot._torch_private`."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dashpot
from dashpot import _torch_private

SOURCE = Path(dashpot.__file__).parent
MODULE = SOURCE / "_torch_private.py"
PRIVATE = re.compile(r"_(?!_)\w")
ATTRIBUTES = {
    "_backward_hooks",
    "_buffers",
    "_cdata",
    "_current_level",
    "_forward_cls",
    "_local_tensor",
    "_optimizer_step_post_hooks",
    "_optimizer_step_pre_hooks",
    "_parameters",
    "_post_accumulate_grad_hooks",
    "_set_fwd_grad_enabled",
    "_spec",
    "_version",
}
"""Private attributes of torch's tensors, modules and optimizers, regardless of the object's name."""


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line number and text of each private name of torch."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from ((node.lineno, name) for name in names if any(map(PRIVATE.match, name.split("."))))
        elif isinstance(node, ast.Attribute) and PRIVATE.match(node.attr):
            if node.attr in ATTRIBUTES or root(node) == "torch":
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in ATTRIBUTES:
            yield node.lineno, repr(node.value)


def root(node: ast.AST) -> str:
    """Return the name at the start of a chain of attributes, calls and subscripts; empty if there is none."""
    while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Return the syntax tree of every source file."""
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("torch._foreach_add_(x, 1)", "torch._foreach_add_"),
        ("torch.autograd._profiler_enabled()", "torch.autograd._profiler_enabled"),
        ("from torch.optim.optimizer import _global_optimizer_pre_hooks", "torch.optim.optimizer._global"),
        ("from torch._dynamo import mark_static", "torch._dynamo.mark_static"),
        ("getattr(p, '_backward_hooks', None)", "'_backward_hooks'"),
        ("f(x)._version", "f(x)._version"),
    ],
)
def test_private_names_are_found(text, name):
    assert any(found.startswith(name) for _, found in private_names(ast.parse(text)))


def test_public_names_are_not_found():
    assert not list(private_names(ast.parse("torch.__version__, self._count, torch.add_(x), torch.nn.Module.__call__")))


def test_private_names_of_torch_stay_in_one_module():
    found = [
        f"{path.relative_to(SOURCE)}:{line}: {name}"
        for path, tree in trees().items()
        if path != MODULE
        for line, name in private_names(tree)
    ]
    assert not found, "\n".join(found)


def test_every_name_of_the_module_is_imported_elsewhere():
    imported = {
        alias.name
        for path, tree in trees().items()
        if MODULE.stem in path.read_text(encoding="utf-8")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "dashpot._torch_private"
        for alias in node.names
    }
    assert imported == set(_torch_private.__all__)
