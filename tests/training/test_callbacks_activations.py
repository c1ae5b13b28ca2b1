"""Statistics of activations: values against plain sums, thinning, hooks, resume and figures."""

import math
import warnings

import pytest
import torch
from learner_support import At, StopAt, X, fp16, learner, linear_learner, pairs, problem, same, weights
from torch import nn

from dashpot.errors import ArgumentError, RunError
from dashpot.training import Accumulate, Activations, Callback, Engine, Learner
from dashpot.training.callbacks.activation_sums import histogram


class Twice(nn.Module):
    """Two linear layers with the same activation function, which is called twice."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first, self.second, self.act = nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU()
        with torch.no_grad():
            self.first.bias[:2] = -100  # two dead units
            self.first.weight[2:] += 0.5
        self.to(dtype)

    def forward(self, x):
        return self.act(self.second(self.act(self.first(x))))


class Linear(nn.Sequential):
    """A layer that is its own activation function."""

    def __init__(self):
        super().__init__(nn.Linear(3, 2), nn.Identity())


def seeded():
    """Return a learner with dropout, after seeding the global generator."""
    torch.manual_seed(0)
    return learner()


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_statistics_equal_plain_sums_over_the_step():
    """The two calls of the ReLU have different numbers of units, so their share of dead units is NaN."""
    torch.manual_seed(0)
    model = Twice(torch.float64)
    x, y = X.double(), torch.arange(12) % 2
    batches = [(x[i : i + 3], y[i : i + 3]) for i in range(0, 12, 3)]
    outputs = {"act": [], "first": []}
    for name, found in outputs.items():
        model.get_submodule(name).register_forward_hook(lambda m, i, o, found=found: found.append(o.detach()))
    activations = Activations("act", "first", bins=5, limits=(0.0, 2.0), threshold=0.01)
    linear_learner(batches, model=model, callbacks=[Accumulate(2)]).fit(1, callbacks=[activations])
    assert activations.steps == [1, 2]
    assert list(activations.values) == ["first", "act"]
    for step in (0, 1):
        for name in outputs:
            calls = outputs[name][: len(outputs[name])]
            per_step = len(calls) // 2
            values = torch.cat([call.flatten() for call in calls[step * per_step : (step + 1) * per_step]])
            expected = {
                "mean": values.mean().item(),
                "std": values.std(correction=0).item(),
                "zeros": (values.abs() <= 0.01).double().mean().item(),
            }
            got = {key: activations.values[name][key][step] for key in expected}
            assert got == pytest.approx(expected, rel=1e-12)
            counts = torch.histc(values.clamp(0, 2), 5, 0, 2)
            assert activations.histogram(name)[:, step].tolist() == counts.tolist()
    assert math.isnan(activations.values["act"]["dead"][0])
    assert activations.values["first"]["dead"] == [0.0, 0.0]


def test_dead_units_are_counted():
    torch.manual_seed(0)
    first = nn.Linear(3, 4)
    with torch.no_grad():
        first.bias[:3] = torch.tensor([-100.0, -100.0, 100.0])
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2))
    activations = Activations(nn.ReLU)
    linear_learner(pairs(), model=model, lr=1e-6).fit(1, callbacks=[activations])
    assert activations.values["1"]["dead"] == [0.5] * 3
    assert all(share >= 0.5 for share in activations.values["1"]["zeros"])


def test_units_of_images_are_channels():
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    with torch.no_grad():
        convolution.bias[0] = -100  # pyright: ignore[reportOptionalSubscript]
    model = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    images = [(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 2)]
    activations = Activations()
    linear_learner(images, model=model, lr=1e-6).fit(1, callbacks=[activations])
    assert activations.values["1"]["dead"] == [0.25]


def test_recorded_steps_are_thinned_to_keep():
    activations = Activations("0", every=2, keep=4)
    made = linear_learner(pairs(), model=Linear())
    made.fit(7, callbacks=[activations])  # 21 steps
    assert activations.steps == [1, 9, 17]
    assert activations.every == 2
    assert activations.histogram("0").shape == (80, 3)
    assert activations.histogram("0").sum(0).tolist() == [8, 8, 8]


def test_fit_is_unchanged_and_hooks_are_removed():
    plain = seeded()
    plain.fit(2)
    watched = seeded()
    watched.fit(2, callbacks=[Activations()])
    assert same(weights(plain), weights(watched))
    assert hooks(watched.model) == 0
    for hook in (At("after_loss", lambda _: 1 / 0), At("before_fit", lambda _: 1 / 0, order=46)):
        with pytest.raises(ZeroDivisionError):
            watched.fit(1, callbacks=[Activations(), hook])
        assert hooks(watched.model) == 0


def test_evaluation_and_further_forward_passes_are_not_recorded():
    activations = Activations("0", nn.Tanh)
    made = Learner.of(problem(), torch.optim.SGD, lr=0.1, engine=Engine("cpu"))
    made.fit(1, callbacks=[activations, At("after_loss", lambda o: o.forward(o.batch.x))])
    assert activations.steps == [1, 2, 3]
    assert activations.histogram("0").sum(0).tolist() == [32, 32, 16]


def test_outputs_of_a_replaced_action_are_recorded_once():
    class Predict(Callback):
        def predict(self, learner, proceed):
            learner.batch.output = learner.forward(learner.batch.x)

    activations = Activations("0")
    linear_learner(pairs(), model=Linear()).fit(
        1, callbacks=[activations, Predict(), At("after_loss", lambda o: o.forward(o.batch.x))]
    )
    assert activations.histogram("0").sum(0).tolist() == [8, 8, 8]


def test_skipped_steps_are_not_recorded():
    activations = Activations("0")
    made = linear_learner(pairs(), model=Linear())
    made.engine = fp16(scale=2.0**15)

    def overflow(learner):
        if learner.batch.index == 1:
            learner.batch.loss = learner.batch.loss * 1e30

    made.fit(1, callbacks=[activations, At("after_loss", overflow)])
    assert made.steps == 2
    assert activations.steps == [1, 2]
    assert activations.histogram("0").sum(0).tolist() == [8, 8]


def test_low_precision_outputs_are_measured_in_float32():
    activations = Activations("0")
    made = linear_learner([(torch.full((4, 3), 1000.0), torch.arange(4) % 2)], model=Linear())
    made.engine = Engine("cpu", precision="bf16")
    with torch.no_grad():
        made.model[0].weight.fill_(1.0)
        made.model[0].bias.fill_(0.0)
    made.fit(1, callbacks=[activations])
    assert activations.values["0"]["mean"] == [3008.0]  # 3000 in bfloat16
    assert activations.values["0"]["std"] == [0.0]


def test_nonfinite_outputs_are_visible():
    activations = Activations("0", bins=2, limits=(-1, 1))
    x = torch.tensor([[math.inf, 0, 0], [0.0, 0, 0], [math.nan, 0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear_learner([(x, torch.arange(3) % 2)], model=Linear()).fit(1, callbacks=[activations])
    assert math.isnan(activations.values["0"]["mean"][0])
    assert activations.histogram("0").sum() == 4


def test_histograms_of_deterministic_algorithms_are_equal():
    x = torch.cat([torch.linspace(-3, 4, 1001), torch.tensor([math.nan, math.inf])])
    expected = histogram(x, 7, (-2.0, 3.0))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(histogram(x, 7, (-2.0, 3.0)), expected)
    finally:
        torch.use_deterministic_algorithms(False)
    assert expected.sum() == 1002


def test_resumed_fit_records_the_same_steps():
    whole, stop, part, resumed = Activations(every=2), StopAt(4), Activations(every=2), Activations(every=2)
    seeded().fit(3, callbacks=[whole])
    seeded().fit(3, callbacks=[part, stop])
    assert stop.state is not None
    learner().fit(3, callbacks=[resumed], resume=stop.state)
    assert resumed.steps == whole.steps == [1, 3, 5, 7, 9]
    assert resumed.values == whole.values
    assert torch.equal(resumed.histogram("2"), whole.histogram("2"))
    for other, name in (
        (Activations("0", every=2), "layers"),
        (Activations(every=2, bins=9), "bins"),
        (Activations(every=2, limits=(0, 1)), "limits"),
        (Activations(every=2, threshold=0.5), "threshold"),
        (Activations(), "every"),
    ):
        with pytest.raises(RunError, match=f"Activations: {name} must be"):
            learner().fit(3, callbacks=[other], resume=stop.state)
    learner().fit(3, resume=stop.state)  # observers are optional


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "rows",
            torch.zeros(1, 1, 85, dtype=torch.float64),
            r"rows must have the shape \(4, 1, 85\), got \(1, 1, 85\)",
        ),
        ("rows", torch.zeros(4, 85, dtype=torch.float64), "rows must be a tensor of float64 with 3 dimensions"),
        ("steps", [1, 2, 2, 3], "steps must be in ascending order"),
        ("stride", 0, "stride must be an integer"),
        ("threshold", None, "threshold must be a number"),
    ],
)
def test_damaged_state_is_rejected(key, value, message):
    stop = StopAt(4)
    learner().fit(3, callbacks=[Activations(), stop])
    assert stop.state is not None
    stop.state["callbacks"]["Activations"][key] = value
    with pytest.raises(RunError, match=f"callbacks.Activations.{message}"):
        learner().fit(3, callbacks=[Activations()], resume=stop.state)


def test_default_layers_are_activation_functions_or_all_leaves():
    activations = Activations()
    learner().fit(1, callbacks=[activations])
    assert list(activations.values) == ["2"]
    linear_learner(pairs(), model=nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)))).fit(
        1, callbacks=[activations]
    )
    assert list(activations.values) == ["0", "1.0"]


class Returns(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.inner, self.output = nn.Linear(3, 2), output

    def forward(self, x):
        return self.output(self.inner(x))


class Uses(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.layer = Returns(output)

    def forward(self, x):
        self.layer(x)
        return self.layer.inner(x)


def test_first_item_of_a_tuple_is_recorded_and_other_outputs_are_rejected():
    activations = Activations("layer")
    linear_learner(pairs(), model=Uses(lambda x: (x, None))).fit(1, callbacks=[activations])
    assert activations.histogram("layer").sum(0).tolist() == [8, 8, 8]
    for output, got in ((lambda x: {"x": x}, "dict"), (lambda x: x.argmax(1), "dtype torch.int64")):
        with pytest.raises(ArgumentError, match=f"output of layer layer must be a floating-point tensor, got {got}"):
            linear_learner(pairs(), model=Uses(output)).fit(1, callbacks=[activations])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be an integer"),
        ({"bins": 1}, "bins must be an integer"),
        ({"keep": 1}, "keep must be an integer"),
        ({"threshold": -1}, "threshold must be a number"),
        ({"limits": (1, 1)}, "limits must be two finite numbers in ascending order, got"),
        ({"limits": (0, math.inf)}, "limits must be two finite numbers"),
    ],
)
def test_wrong_arguments_are_rejected(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Activations(**arguments)


def test_unknown_layers_are_rejected():
    with pytest.raises(ArgumentError, match="layers must be names or classes of modules, got 3"):
        Activations(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="the model has no layer 'act'; its layers are 0, 1, 2, 3, 4"):
        learner().fit(1, callbacks=[Activations("act")])
    with pytest.raises(ArgumentError, match="the model must have submodules, got Linear without any"):
        linear_learner(pairs()).fit(1, callbacks=[Activations()])
    with pytest.raises(ArgumentError, match="the model has no layer of class ReLU"):
        learner().fit(1, callbacks=[Activations(nn.ReLU)])
    recorded = Activations()
    learner().fit(1, callbacks=[recorded])
    with pytest.raises(ArgumentError, match="layer must be one of 2, got '7'"):
        recorded.histogram("7")


def test_plot_draws_statistics_and_histograms():
    activations = Activations("0", "2", bins=6)
    with pytest.raises(ArgumentError, match="no step has been recorded"):
        activations.plot()
    learner().fit(2, callbacks=[activations])
    figure = activations.plot()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [
        "mean",
        "standard deviation",
        "share of outputs near zero",
        "share of dead units",
        "histogram of layer 0",
        "histogram of layer 2",
    ]
    for axes, name in zip(shown, ("mean", "std", "zeros", "dead"), strict=False):
        for line, layer in zip(axes.lines, ("0", "2"), strict=True):
            assert line.get_label() == layer
            assert line.get_xdata().tolist() == activations.steps
            assert line.get_ydata().tolist() == activations.values[layer][name]
    [image] = shown[4].images
    # Logarithms of contiguous and of strided tensors may differ in rounding.
    drawn = torch.tensor(image.get_array())
    torch.testing.assert_close(drawn, torch.log1p(activations.histogram("0")), rtol=1e-12, atol=0)
    assert image.get_extent() == [0.5, 6.5, -7.0, 7.0]
    used = activations.histogram("0").any(dim=1).nonzero().flatten().tolist()
    edges = torch.linspace(-7, 7, 7).tolist()
    assert shown[4].get_ylim() == pytest.approx((edges[used[0]], edges[used[-1] + 1]), rel=1e-6)
    assert figure._repr_png_().startswith(b"\x89PNG")  # pyright: ignore[reportAttributeAccessIssue]
