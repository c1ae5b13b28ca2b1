"""Each recipe has a single graph for all scalars and sizes, which fused engines require."""

import pytest
import torch

import dashpot as dp
from dashpot.engine.eager import new_slots
from dashpot.engine.program import StepScalars, advance
from dashpot.optimizers.registry import METHODS
from dashpot.stages import Clock

RECIPES = {name: row.cls.recipe_for() for name, row in METHODS.items()}
RECIPES |= {
    f"autosgm-{n}": dp.AutoSGM.recipe_for(numerator=n, zero=0.5, decay="change", weight_decay=0.1) for n in range(5)
}
RECIPES["centred rmsprop with momentum"] = dp.RMSprop.recipe_for(centered=True, momentum=0.9, weight_decay=0.1)
FAST = ("sgd", "autosgm-3", "sophia")


def as_tensors(record):
    return type(record)(*(torch.tensor(float(value), dtype=torch.float64) for value in record))


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in RECIPES])
def test_changed_scalars_and_sizes_trace_nothing_new(name):
    recipe = RECIPES[name]
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    step = torch.compile(
        lambda scalars, clock, *args: advance(recipe.bound_stages, StepScalars(clock, scalars), *args),
        fullgraph=True,
        dynamic=True,
        backend=count,
    )
    for size in (100, 7, 33):
        w, g = torch.randn(size, dtype=torch.float64), torch.randn(size, dtype=torch.float64)
        state = new_slots(recipe, w)
        for t, lr, factor in ((1, 0.1, 1.0), (2, 0.01, 0.5)):
            clock = Clock(t, lr, factor, factor)
            traced_w, traced = step(tuple(map(as_tensors, recipe.scalars(clock))), as_tensors(clock), w, g, state)
            expected_w, expected = advance(recipe.bound_stages, StepScalars(clock, recipe.scalars(clock)), w, g, state)
            torch.testing.assert_close(traced_w, expected_w, rtol=1e-12, atol=1e-12)  # float64 roundings
            torch.testing.assert_close(traced, expected, rtol=1e-12, atol=1e-12)
            w, state = expected_w, expected
    assert len(graphs) == 1
