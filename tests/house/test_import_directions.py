"""Imports between packages follow one order of layers, including lazy imports and imports for type checkers."""

import ast
from collections.abc import Iterator
from pathlib import Path

import dashpot

SOURCE = Path(dashpot.__file__).parent

LAYERS = (
    {"errors", "names", "_torch_private"},
    {"constraints"},
    {"utils"},
    {"figures", "scheduling", "stats"},
    {"schedules", "stages"},
    {"recipes"},
    {"clip", "engine"},
    {"curvature", "functional"},
    {"optimizers"},
    {"analysis"},
    {"watching"},
    {"data"},
    {"tasks"},
    {"runs", "verification"},
    {"training"},
    {"comparison"},
    {"experiments"},
    {"cli"},
)
"""Layers from bottom to top; packages in the same layer do not import each other."""

TOP = {"__init__", "__main__", "_exports"}
"""Modules that may import everything; `from dashpot import __version__` is allowed everywhere."""


def unit(parts: tuple[str, ...]) -> str:
    """Return the package or root module to which a path inside dashpot belongs."""
    return parts[0].removesuffix(".py")


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all statements of a tree, also nested ones, without a walk through their expressions."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for node in getattr(tree, field, ()):
            yield node
            yield from statements(node)


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in statements(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "dashpot":
                yield from ((node.lineno, alias.name) for alias in node.names if not alias.name.startswith("__"))
            elif (node.module or "").startswith("dashpot."):
                yield node.lineno, str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, a.name.split(".")[1]) for a in node.names if a.name.startswith("dashpot."))


def test_nested_imports_are_found():
    nested = """
def f():
    if x:
        pass
    elif y:
        import dashpot.a
    try:
        from dashpot.b import z
    except E:
        from dashpot import c
    else:
        import dashpot.d
    finally:
        import dashpot.e
    match x:
        case 1:
            import dashpot.f
class C:
    async def g(self):
        async with x:
            for i in x:
                import dashpot.g
            else:
                while i:
                    import dashpot.h
"""
    assert sorted(name for _, name in imports(ast.parse(nested))) == list("abcdefgh")


def test_imports_between_packages_point_down():
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        here = unit(path.relative_to(SOURCE).parts)
        if here in TOP:
            continue
        for line, there in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if there != here and layer[there] >= layer[here]:
                wrong.append(f"{path.relative_to(SOURCE)}:{line}: {here} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_every_package_has_a_layer():
    found = {unit(path.relative_to(SOURCE).parts) for path in SOURCE.rglob("*.py")} - TOP
    assert found == set().union(*LAYERS)
