"""Use inside torch.compile: the functional form is traced completely, and `opt.step()` causes a graph break."""

from functools import partial
from unittest import mock

import pytest
import torch
from contracts.trajectories import distance
from engine_support import CountingBackend, each_for_dynamo
from registry import SUBJECTS, each, marked

import dashpot as dp
from dashpot.functional import init, update
from dashpot.stages import Clock

SAME = 1e-12  # for five steps in float64; the step number is a float64 tensor instead of a Python number

# Dynamo warns that it traces through the cache of record types, which is harmless: the keys are names. Dynamo also
# reads the gradient of the loss, a non-leaf tensor, after `backward`.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Dynamo detected a call to a .functools.lru_cache"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
# Dynamo (2.13) does not support `dataclasses.fields`, which stages without a `scalars` method use.
UNSCHEDULED = [subject for subject in SUBJECTS if subject.recipe is None or not subject.recipe.schedule]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def data(step, n=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(n, 3, generator=generator, dtype=dtype), torch.randn(n, 2, generator=generator, dtype=dtype)


def weights(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    shapes = {"first": (3, 4), "bias": (4,), "second": (4, 2)}
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}


def loss_of(w, x, y):
    return ((torch.tanh(x @ w["first"] + w["bias"]) @ w["second"] - y) ** 2).mean()


def trainer(recipe):
    """Return a function of tensors that performs the forward pass, the backward pass and the update."""

    def train_step(step, w, state, x, y):
        return update(recipe, w, torch.func.grad(loss_of)(w, x, y), state, step)

    return train_step


def trained(train_step, recipe, dtype=torch.float64, steps=5, as_step=torch.tensor):
    w = weights(dtype)
    state = init(recipe, w)
    for step in range(steps):
        w, state = train_step(as_step(step), w, state, *data(step, dtype=dtype))
    return w, state


def traceable(subject):
    recipe = subject.make([torch.zeros(1, requires_grad=True)]).recipe
    with mock.patch.object(dp.Stage, "scalars", side_effect=LookupError):
        try:
            recipe.scalars(Clock(t=1, lr=0.1))
        except LookupError:
            return False
    return True


@each_for_dynamo(lambda subject: subject in UNSCHEDULED and traceable(subject))
def test_training_step_is_one_graph(subject):
    recipe = subject.make([torch.zeros(1, requires_grad=True)]).recipe
    count = CountingBackend()
    plain, _ = trained(trainer(recipe), recipe, as_step=int)
    compiled, _ = trained(torch.compile(trainer(recipe), fullgraph=True, backend=count), recipe)
    assert distance(list(compiled.values()), list(plain.values())) < SAME
    assert len(count.graphs) == 1


@each(lambda subject: subject in UNSCHEDULED)
def test_tensor_step_number_matches_integer(subject):
    recipe = subject.make([torch.zeros(1, requires_grad=True)]).recipe
    plain, _ = trained(trainer(recipe), recipe, as_step=int)
    others, _ = trained(trainer(recipe), recipe)
    assert distance(list(others.values()), list(plain.values())) < SAME
    low, state = trained(trainer(recipe), recipe, dtype=torch.float32)
    assert all(value.dtype == torch.float32 for slots in state.values() for value in slots.values())
    assert all(value.dtype == torch.float32 for value in low.values())


recipes = pytest.mark.parametrize(
    "recipe_for",
    [partial(dp.SGD.recipe_for, momentum=0.9), pytest.param(dp.AdamW.recipe_for, marks=pytest.mark.slow)],
    ids=["SGD", "AdamW"],
)


@recipes
def test_changed_tensor_lr_does_not_recompile(recipe_for):
    rate, count = torch.tensor(0.1, dtype=torch.float64), CountingBackend()
    recipe = recipe_for(lr=rate)
    train_step = torch.compile(trainer(recipe), fullgraph=True, backend=count)
    w = other = weights()
    state = expected = init(recipe, w)
    for step in range(4):
        rate.fill_(0.1 / (1 + step))
        w, state = train_step(torch.tensor(step), w, state, *data(step))
        plain = recipe_for(lr=0.1 / (1 + step))
        other, expected = trainer(plain)(step, other, expected, *data(step))
    assert distance(list(w.values()), list(other.values())) < SAME
    assert len(count.graphs) == 1


@recipes
def test_autograd_grad_is_traced(recipe_for):
    recipe, count = recipe_for(lr=0.1), CountingBackend()

    def train_step(step, w, state, x, y):
        grads = torch.autograd.grad(loss_of(w, x, y), list(w.values()))
        return update(recipe, w, dict(zip(w, grads, strict=True)), state, step)

    expected, _ = trained(trainer(recipe), recipe, as_step=int)
    compiled = torch.compile(train_step, fullgraph=True, backend=count)
    w = {name: value.requires_grad_() for name, value in weights().items()}
    state = init(recipe, w)
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        for step in range(5):
            w, state = compiled(torch.tensor(step), w, state, *data(step))
            w = {name: value.detach().requires_grad_() for name, value in w.items()}
    assert distance(list(w.values()), list(expected.values())) < SAME
    assert len(count.graphs) == 1


@pytest.mark.parametrize(
    "step", [torch.zeros(2), torch.tensor(True), torch.tensor(1j)], ids=["vector", "bool", "complex"]
)
def test_invalid_step_tensor_raises(step):
    recipe, w = dp.Adam.recipe_for(), torch.zeros(2)
    with pytest.raises(dp.ArgumentError, match="update: step must be an integer or a 0-d tensor"):
        update(recipe, w, w, init(recipe, w), step)


def test_schedule_with_tensor_step_raises():
    recipe, w = dp.Adam.recipe_for().with_settings(schedule=dp.schedules.Cosine(10)), torch.zeros(2)
    with pytest.raises(dp.ArgumentError, match="update: step must be an int for a recipe with schedules"):
        update(recipe, w, w, init(recipe, w), torch.tensor(1))


# ---- optimizers ------------------------------------------------------------------------------------------------------


def model_step(subject, **options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    optimizer = subject.make(model.parameters(), **options)

    def train_step(x, y):
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return list(model.parameters()), train_step, optimizer


def results(subject, backend=None, steps=4, **options):
    params, train_step, optimizer = model_step(subject, **options)
    train_step = train_step if backend is None else torch.compile(train_step, backend=backend)
    for step in range(steps):
        train_step(*data(step))
    return params, optimizer


NAMES = ("sgd-momentum", "adamw", "nadam", "autosgm-2-zero", "sgm-all-stages", "own-stage", "scheduled")
FAST = frozenset(["own-stage", "scheduled"])


@pytest.mark.diagonal
@pytest.mark.parametrize("subject", marked((s for s in SUBJECTS if s.name in NAMES), FAST), ids=str)
@pytest.mark.parametrize("capturable", [False, True])
def test_optimizer_step_in_compiled_function_matches_plain(subject, capturable):
    count = CountingBackend()
    plain, _ = results(subject, capturable=capturable)
    compiled, optimizer = results(subject, count, capturable=capturable)
    assert distance(compiled, plain) == 0  # the model's graph runs unchanged, and the step is not traced
    assert not [graph for graph in count.graphs if "copy_" in graph.code or "where" in graph.code]  # no step
    assert optimizer.steps_done() == 4


@pytest.mark.parametrize("name", ["sgd-momentum", pytest.param("adamw", marks=pytest.mark.slow)])
def test_compiled_engine_in_compiled_function(name):
    from dashpot.engine.inductor import Inductor

    (subject,) = (subject for subject in SUBJECTS if subject.name == name)
    plain, _ = results(subject)
    outer, inner = CountingBackend(), CountingBackend()
    params, train_step, optimizer = model_step(subject)
    optimizer._backend.inductor = Inductor("compiled", 0, inner, frozenset({"cpu"}))
    train_step = torch.compile(train_step, backend=outer)
    for step in range(4):
        train_step(*data(step))
    assert distance(params, plain) < SAME
    assert len(inner.graphs) == 1


def test_optimizer_step_with_fullgraph_raises():
    """The message is quoted in docs/engine.md."""
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.ones(2)
    optimizer = dp.AdamW([w])
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"Skip calling `torch.compiler.disable\(\)`d function"):
        torch.compile(optimizer.step, backend="eager", fullgraph=True)()
    assert torch.equal(w, torch.ones(2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # raised by the import of torch's compiler
def test_training_step_with_inductor_matches_plain():
    recipe = dp.AdamW.recipe_for(lr=0.05)
    plain, _ = trained(trainer(recipe), recipe, as_step=int)
    compiled, _ = trained(torch.compile(trainer(recipe), fullgraph=True), recipe)
    assert distance(list(compiled.values()), list(plain.values())) < SAME
