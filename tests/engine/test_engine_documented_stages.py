"""Stages in the documentation compile, and the documented list of operations equals that of the tracer."""

import ast
import doctest
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from contracts.trajectories import distance
from engine_support import explanation, is_compiled

import dashpot as dp
from dashpot.engine.native import functions
from dashpot.engine.native.symbols import UntraceableError
from dashpot.engine.native.trace import Layout, trace
from dashpot.engine.program import DEFAULT_FORMAT

pytestmark = pytest.mark.needs_compiler

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs", "examples", "src/dashpot/stages/base.py")
NOT_COMPILED = {"RowNorm", "Peak", "Repeated"}
"""Stages that the documentation shows as mistakes."""


def sources(path):
    """Return the code of a script, or of the examples in a page or in docstrings."""
    text = path.read_text()
    if path.suffix == ".py" and ">>> " not in text:
        return [text]
    return [example.source for example in doctest.DocTestParser().get_examples(text)]


def stages_of(path):
    """Return the stages that a file of the documentation defines, with default settings."""
    space = {"__name__": __name__}
    exec("import torch; import dashpot as dp; from dataclasses import dataclass", space)
    for source in sources(path):
        for node in ast.parse(source).body:
            imports = isinstance(node, ast.ImportFrom) and str(node.module).startswith("dashpot")
            if imports or (isinstance(node, ast.ClassDef) and [ast.unparse(b) for b in node.bases] == ["dp.Stage"]):
                exec(ast.unparse(node), space)
    return [
        kind()
        for kind in space.values()
        if isinstance(kind, type) and issubclass(kind, dp.Stage) and kind is not dp.Stage
    ]


def documented():
    places = [ROOT / page for page in PAGES]
    files = [file for place in places for file in (place.rglob("*.*") if place.is_dir() else (place,))]
    return [stage for file in sorted(files) if file.suffix in (".md", ".py") for stage in stages_of(file)]


def names(stages):
    return {type(stage).__name__ for stage in stages}


def test_every_documented_stage_can_be_compiled():
    stages = documented()
    assert names(stages) >= {"Cautious", "WarmClip", "SignPower", "TensorCurvature", "Lion", "Sign", *NOT_COMPILED}
    refused = set()
    for stage in stages:
        recipe = dp.Recipe(stage)
        for compute in (torch.float32, torch.float64):
            layout = Layout(compute, torch.float32, torch.bfloat16, tuple((slot.key, compute) for slot in recipe.slots))
            try:
                trace(recipe.bound_stages, recipe.slots, DEFAULT_FORMAT, layout)
            except UntraceableError:
                refused.add(type(stage).__name__)
    assert refused <= NOT_COMPILED


@pytest.mark.slow
def test_documented_stages_run_on_kernels():
    """All stages are combined in one recipe, as one kernel, and compared with the eager engine."""
    stages = {type(stage).__name__: stage for stage in documented() if type(stage).__name__ not in NOT_COMPILED}
    found = []
    for engine in ("eager", "compiled"):
        torch.manual_seed(0)
        w = torch.randn(50, dtype=torch.float64, requires_grad=True)
        opt = dp.SGM.from_recipe([w], dp.Recipe(*stages.values(), lr=0.1), engine=engine)
        for _ in range(4):
            opt.zero_grad()
            opt.backward((w**4).sum())
            opt.step()
        assert is_compiled(opt) is (engine == "compiled"), explanation(opt)
        found.append([w.detach(), *(value.double() for value in opt.state[w].values())])
    assert distance(*found) < 1e-12


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.slow), torch.bfloat16], ids=str)
def test_cautious_mask_compiles_by_every_way_to_write_it(dtype):
    """The page recommends both `.to(x.v)` and `torch.where` between numbers."""

    @dataclass(frozen=True)
    class Written(dp.Stage):
        slots = tuple(dp.elementwise(f"way{number}") for number in range(4))

        def apply(self, x, s, c, ctx):
            agrees = x.v * x.g > 0
            ways = agrees.to(x.v), torch.where(agrees, 1.0, 0.0), agrees.type_as(x.v), torch.where(agrees, x.v, 0) / x.v
            return x, type(s)(*ways)

    found = []
    for engine in ("eager", "compiled"):
        p = torch.ones(5, dtype=dtype, requires_grad=True)
        opt = dp.SGM.from_recipe([p], dp.Recipe(dp.Filter(0.9), Written(), lr=0.1), engine=engine)
        for g in ([1.0, -1.0, 2.0, 3.0, 0.5], [-0.5, 1.0, 1.0, -9.0, 2.0]):
            p.grad = torch.tensor(g, dtype=dtype)
            opt.step()
        assert is_compiled(opt) is (engine == "compiled"), explanation(opt)
        found.append([opt.state[p][f"way{number}"] for number in range(4)])
    assert [value.tolist() for value in found[0]] == [[0.0, 1.0, 1.0, 1.0, 1.0]] * 4
    assert [value.tolist() for value in found[1]] == [value.tolist() for value in found[0]]


def test_page_lists_the_operations_that_compile():
    page = (ROOT / "docs" / "own-stage.md").read_text()
    section = page.partition("## Compiled operations")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "operations" not in line]
    listed = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    known = {name for name in functions.FUNCTIONS if "." not in name} - functions.ALIASES.keys()
    assert listed == known
    assert "explain_engine" in section


@pytest.mark.parametrize("engine", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_page_runs_in_both_engines(engine, monkeypatch):
    monkeypatch.setenv("DASHPOT_ENGINE", engine)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    result = doctest.testfile(str(ROOT / "docs" / "own-stage.md"), module_relative=False, optionflags=flags)
    assert result.failed == 0
    assert result.attempted > 30
