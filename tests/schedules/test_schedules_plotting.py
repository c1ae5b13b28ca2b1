"""`schedules.plot`: the drawn values are those of the scheduler, which stays unchanged."""

import copy
import math
import sys
import warnings
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler as lrs

import dashpot as dp
import dashpot.schedules as sch
from dashpot.errors import ArgumentError


def sgd():
    """Return an optimizer with momentum and two groups with different learning rates."""
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    opt = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 0.05}], lr=0.1, momentum=0.9)
    first.grad, second.grad = torch.ones(2), torch.ones(2)
    opt.step()
    return opt


def chained(opt):
    return lrs.ChainedScheduler([lrs.LinearLR(opt, 0.1, total_iters=4), lrs.ExponentialLR(opt, 0.9)])


def sequential(opt):
    return lrs.SequentialLR(opt, [lrs.LinearLR(opt, 0.1, total_iters=4), lrs.CosineAnnealingLR(opt, 9)], [4])


SCHEDULERS = {
    "chained": chained,
    "constant": lrs.ConstantLR,
    "cosine": partial(lrs.CosineAnnealingLR, T_max=7),
    "cosine-restarts": partial(lrs.CosineAnnealingWarmRestarts, T_0=4),
    "cyclic": partial(lrs.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3, mode="triangular"),
    "cyclic2": partial(lrs.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3, mode="triangular2"),
    "cyclic-range": partial(lrs.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3, mode="exp_range", gamma=0.9),
    "cyclic-own": partial(lrs.CyclicLR, base_lr=0.01, max_lr=0.1, step_size_up=3, scale_fn=lambda x: 1 / (1 + x)),
    "exponential": partial(lrs.ExponentialLR, gamma=0.9),
    "lambda": partial(lrs.LambdaLR, lr_lambda=[lambda n: 0.9**n, lambda n: 1 / (1 + n)]),
    "linear": lrs.LinearLR,
    "multi-step": partial(lrs.MultiStepLR, milestones=[3, 8]),
    "multiplicative": partial(lrs.MultiplicativeLR, lr_lambda=lambda n: 0.95),
    "one-cycle": partial(lrs.OneCycleLR, max_lr=0.1, total_steps=15),
    "polynomial": partial(lrs.PolynomialLR, total_iters=9, power=2),
    "sequential": sequential,
    "step": partial(lrs.StepLR, step_size=3),
    "swa": partial(torch.optim.swa_utils.SWALR, swa_lr=0.05, anneal_epochs=5),
    "dashpot": lambda opt: sch.Scheduler(opt, lr=sch.OneCycle(15), momentum=sch.OneCycleMomentum(15)),
}


def drawn(figure):
    """Return the drawn values by panel and label."""
    return {
        axes.get_ylabel(): {line.get_label(): line.get_ydata().tolist() for line in axes.lines} for axes in figure.axes
    }


@pytest.mark.diagonal
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("done", [0, 2])
def test_plot_shows_values_of_the_next_steps_and_changes_nothing(name, done):
    opt = sgd()
    scheduler = SCHEDULERS[name](opt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR passes the deprecated epoch argument
        for _ in range(done):
            opt.step()
            scheduler.step()
        before = copy.deepcopy((scheduler.state_dict(), opt.state_dict()))
        figure = sch.plot(scheduler, 12)
        assert repr((scheduler.state_dict(), opt.state_dict())) == repr(before)
        lr, momentum = [], []
        for _ in range(12):
            lr.append([group["lr"] for group in opt.param_groups])
            momentum.append(opt.param_groups[0]["momentum"])
            opt.step()
            scheduler.step()
    panels = drawn(figure)
    columns = [list(column) for column in zip(*lr, strict=True)]
    assert list(panels["lr"].values()) == (columns[:1] if columns[0] == columns[1] else columns)
    assert panels.get("momentum", {"groups 0, 1": [0.9] * 12}) == {"groups 0, 1": momentum}
    assert figure.axes[0].lines[0].get_xdata().tolist() == list(range(12))


def test_momentum_panels_of_pairs_are_named_by_entry():
    opt = dp.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    figure = sch.plot(lrs.OneCycleLR(opt, 0.1, total_steps=10))
    assert list(drawn(figure)) == ["lr", "betas[0]"]
    assert len(figure.axes[0].lines[0].get_xdata()) == 10


def test_plateau_scheduler_is_drawn_for_given_metrics():
    opt = sgd()
    scheduler = lrs.ReduceLROnPlateau(opt, factor=0.5, patience=1)
    figure = sch.plot(scheduler, metrics=[1.0, 0.9, 0.9, 0.9, 0.8])
    assert drawn(figure) == {"lr": {"group 0": [0.1] * 4 + [0.05] * 2, "group 1": [0.05] * 4 + [0.025] * 2}}
    assert opt.param_groups[0]["lr"] == 0.1
    assert scheduler.num_bad_epochs == 0
    plateau = sch.plot(sch.Plateau(0.5, patience=1), 4, base=0.1, metrics=[1.0, 0.9, 0.9, 0.9, 0.8])
    assert plateau.axes[0].lines[0].get_ydata().tolist() == [0.1] * 4


def test_schedules_are_drawn_by_name():
    schedule = sch.OneCycle(20)
    figure = sch.plot({"lr": schedule, "momentum": sch.OneCycleMomentum(20)}, base=0.5)
    assert [list(lines.values()) for lines in drawn(figure).values()] == [
        [[0.5 * factor for factor in schedule.table(20)]],
        [sch.OneCycleMomentum(20).table(20)],
    ]
    assert list(drawn(sch.plot(schedule))) == ["factor"]
    assert list(drawn(sch.plot(schedule, 5, base=0.5))) == ["value"]
    assert len(sch.plot(sch.Exponential(0.9)).axes[0].lines[0].get_xdata()) == 100


def test_parameters_and_optimizer_state_are_not_copied(monkeypatch):
    opt = sgd()
    scheduler = lrs.StepLR(opt, 3)
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("a tensor was copied"))
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", lambda *_: pytest.fail("a parameter was copied"))
    sch.plot(scheduler, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "schedule must be a dashpot Schedule or Plateau, a mapping of names to Schedules, or a torch scheduler"),
        (({},), "schedule must be a dashpot Schedule or Plateau"),
        ((sch.Cosine(5), 0), r"steps must be an integer in \[1, inf\), got 0"),
        ((sch.Plateau(), 5), "metrics must be given for Plateau"),
    ],
)
def test_wrong_arguments_are_rejected(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        sch.plot(*arguments)


def test_wrong_metrics_and_lengths_are_rejected():
    opt = sgd()
    with pytest.raises(ArgumentError, match="metrics must be given for ReduceLROnPlateau, whose values depend on a"):
        sch.plot(lrs.ReduceLROnPlateau(opt), 5)
    with pytest.raises(ArgumentError, match="metrics must be None for Cosine"):
        sch.plot(sch.Cosine(5), metrics=[1.0])
    with pytest.raises(ArgumentError, match="steps must be at most 3, one more than the number of metrics, got 4"):
        sch.plot(sch.Plateau(), 4, metrics=[1.0, 2.0])
    with pytest.raises(ArgumentError, match="steps must be at most 11, because OneCycleLR ends there"):
        sch.plot(lrs.OneCycleLR(opt, 0.1, total_steps=10), 20)
    with pytest.raises(ArgumentError, match="base must be a number in"):
        sch.plot(sch.Cosine(5), base=math.nan)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    from dashpot.figures import axes

    axes._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ArgumentError, match=r"plot needs matplotlib: pip install 'dashpot\[plot\]'"):
        sch.plot(sch.Cosine(10))


def test_figure_is_displayed_by_notebooks_without_pyplot():
    assert sch.plot(sch.Cosine(10))._repr_png_().startswith(b"\x89PNG")
