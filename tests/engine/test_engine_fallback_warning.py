"""With `engine="compiled"`, there is one warning with a remedy if a recipe has no kernel."""

import gc
import warnings
import weakref
from dataclasses import dataclass, field

import pytest
import torch
from engine_support import explanation

import dashpot as dp
from dashpot.engine import backend

pytestmark = pytest.mark.needs_compiler


@pytest.fixture(autouse=True)
def reset_warnings(monkeypatch):
    monkeypatch.setattr(backend, "_warned", set())


@dataclass(frozen=True)
class Peak(dp.Stage):
    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v / x.v.abs().max()), s


@dataclass(frozen=True)
class Rounded(dp.Stage):
    def apply(self, x, s, c, ctx):
        v = x.v * 1
        v.round_()
        return x._replace(v=v), s


@dataclass(frozen=True)
class Weighted(dp.Stage):
    weights: list = field(default_factory=lambda: [1.0])

    def apply(self, x, s, c, ctx):
        return x._replace(v=x.v * self.weights[0]), s


@dataclass(frozen=True)
class Threshold(dp.Stage):
    beta: float = 0.5

    def apply(self, x, s, c, ctx):
        return (x._replace(v=-x.v) if c.beta > 1 else x), s


def made(stage, engine, dtype=torch.float32, recipe=None):
    p = torch.ones(3, dtype=torch.float32).to(dtype).requires_grad_()
    optimizer = dp.SGM.from_recipe([p], recipe or dp.Recipe(stage, lr=0.1), engine=engine)
    p.grad = torch.ones(3).to(dtype)
    return p, optimizer


def line(kind, number):
    """Return the pattern for line `number` of a stage's `apply`, where line 1 follows `def`."""
    return rf"\(test_engine_fallback_warning\.py, line {kind.apply.__code__.co_firstlineno + number}\) .*; "


CASES = {
    Peak: r"Peak: max with these arguments " + line(Peak, 1) + "use ctx.mean or ctx.norm",
    Rounded: r"Rounded: Tensor.round_ " + line(Rounded, 2) + "use round, which returns a new tensor",
    Weighted: r"a stage with a setting of unhashable type: 'list' .*; make every setting a number, a string or a tuple",
    Threshold: r"Threshold: a Python branch on a scalar " + line(Threshold, 1) + r"compute it in scalars\(clock\)",
}


@pytest.mark.parametrize("kind", CASES)
def test_untraceable_stage_warns_once_with_line_and_remedy(kind):
    _, optimizer = made(kind(), "compiled")
    with pytest.warns(RuntimeWarning, match=CASES[kind]) as caught:
        optimizer.step()
    text = str(caught[0].message)
    assert len(caught) == 1
    assert 'engine="compiled"' in text
    assert "dashpot.explain_engine(optimizer)" in text
    assert "cannot be compiled" in explanation(optimizer)
    optimizer.step()
    _, other = made(kind(), "compiled")
    other.step()


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_auto_and_eager_do_not_warn(engine):
    for kind in CASES:
        made(kind(), engine)[1].step()


def test_unsupported_dtype_warns_with_remedy():
    recipe = dp.AdamW.recipe_for()
    p, optimizer = made(None, "compiled", torch.float8_e5m2, recipe)
    message = "tensors of torch.float8_e5m2 cannot be compiled, .*; use float16, bfloat16, float32 or float64"
    with pytest.warns(RuntimeWarning, match=message):
        optimizer.step()
    _, eager = made(None, "eager", torch.float8_e5m2, recipe)
    eager.step()
    assert torch.equal(p.float(), eager.param_groups[0]["params"][0].float())


def test_warning_as_error_changes_nothing():
    p, optimizer = made(Peak(), "compiled")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="Peak"):
            optimizer.step()
    assert p.tolist() == [1.0] * 3
    assert not optimizer.state[p]


def test_reason_keeps_no_tensor_alive():
    p, optimizer = made(Peak(), "auto")
    optimizer.step()
    gone = weakref.ref(p)
    del p, optimizer
    gc.collect()
    assert gone() is None


def test_default_dtype_is_part_of_kernel_key():
    """The result of `torch.where` of two numbers has the default dtype, which can change."""

    @dataclass(frozen=True)
    class Tenth(dp.Stage):
        def apply(self, x, s, c, ctx):
            return x._replace(v=torch.where(x.v > 0, 0.1, 0.2)), s

    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            p = torch.zeros(2, dtype=torch.float64, requires_grad=True)
            optimizer = dp.SGM.from_recipe([p], dp.Recipe(Tenth(), lr=1.0), engine="compiled")
            p.grad = torch.ones(2, dtype=torch.float64)
            optimizer.step()
        finally:
            torch.set_default_dtype(torch.float32)
        assert "compiled," in explanation(optimizer)
        assert p.tolist() == [-torch.tensor(0.1, dtype=default).item()] * 2
