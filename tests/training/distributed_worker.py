"""Worker of test_distributed.py for one rank; `distributed_worker.py RANK WORLD FOLDER PATTERN` runs the checks."""

from __future__ import annotations

import dataclasses
import random
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from distributed_checks import run_checks
from distributed_count_checks import add_checks as add_count_checks
from distributed_freeze_checks import (
    frozen_parameters_equal_those_of_one_process,
    frozen_parameters_resume,
    second_order_rejects_frozen_parameters,
)
from distributed_inference_checks import (
    evaluation_within_a_fit_changes_nothing,
    metric_objects_agree,
    metric_objects_resume,
    objects_that_are_not_synchronized_raise,
    objects_that_cannot_be_synchronized_raise,
    objects_with_merged_statistics_agree,
    predictions_are_in_order,
)
from distributed_lesson_checks import activations_equal_those_of_one_process, plain_optimizer_equals_one_process
from distributed_loader_checks import (
    list_of_batches_is_sharded,
    loader_is_sharded,
    loader_resumes,
    loader_resumes_with_other_world_size,
    unshardable_sources_raise,
)
from distributed_log_checks import (
    logged_values_are_means_over_all_examples,
    logged_values_resume,
    loss_curve_is_of_all_examples,
    signal_on_one_rank_saves_on_all,
)
from distributed_message_checks import (
    batch_norm_of_one_example_per_rank,
    changed_data_are_refused_on_all_ranks,
    nonfinite_evaluation_is_diagnosed,
    nonfinite_values_are_diagnosed,
    unused_parameters_are_found,
    unused_parameters_are_named,
)
from distributed_steps_checks import (
    fit_by_steps_resumes,
    steps_equal_those_of_one_process,
    time_limit_ends_all_ranks_after_the_same_step,
)
from distributed_support import (
    PRODUCTS,
    TOLERANCE,
    StopAt,
    assert_equal_on_all_ranks,
    assert_raises,
    assert_same,
    assert_trained,
    engine,
    full_tensor,
    learner,
    own_group,
    problem,
    state_of_rank_zero,
    weights,
)
from distributed_watch_checks import watched_fit_equals_unwatched_fit
from process_setup import cache_entry_points
from registry import SUBJECTS
from torch import nn

import dashpot as dp
from dashpot.training import Callback, Learner

# ---- agreement with a single process --------------------------------------------------------------------------------


def every_method(name: str, strategy: str, accumulate: int, dtype: torch.dtype, epochs: int) -> None:
    subject = next(s for s in SUBJECTS if s.name == name)

    def make(params):
        return subject.make(list(params))

    actual, expected = (learner(make, where, accumulate, dtype=dtype) for where in (strategy, None))
    actual.fit(epochs)
    expected.fit(epochs)
    assert_trained(actual)
    assert_same(actual, expected, TOLERANCE[dtype])


def hessian_vector_products(name: str, strategy: str, accumulate: int) -> None:
    """Check products of the learner's own loss; finite differences have a small error at their step of 1e-3."""
    probe = "differences" if strategy == "fsdp" else "auto"
    make = partial(PRODUCTS[name], relative_step=1e-3)
    actual = learner(make, strategy, accumulate, dtype=torch.float64)
    expected = learner(partial(make, process_group=own_group(), probe=probe), None, accumulate, dtype=torch.float64)
    actual.fit(3)
    expected.fit(3)
    assert_trained(actual)
    assert actual.opt.curvature_stats[2:4] == expected.opt.curvature_stats[2:4]
    assert actual.opt.curvature_stats.products >= 2
    assert_same(actual, expected, 1e-9)


def finite_differences_use_all_batches_of_a_step() -> None:
    make = partial(PRODUCTS["AdaHessian"], process_group=own_group())
    learners = [
        learner(partial(make, **probe), None, 2, dtype=torch.float64) for probe in ({}, {"probe": "differences"})
    ]
    for each in learners:
        each.fit(3)
    assert [each.opt.curvature_stats.route for each in learners] == ["closure", "differences"]
    exact, approximate = map(weights, learners)
    # The truncation error is e^2 = 1e-11 times third derivatives, divided by small curvatures.
    torch.testing.assert_close(exact, approximate, rtol=1e-6, atol=1e-6)


# ---- state shared by the ranks --------------------------------------------------------------------------------------


def weights_are_broadcast(strategy: str) -> None:
    actual = learner(dp.AdamW, strategy, seed=dist.get_rank())
    expected = learner(dp.AdamW, None, seed=0)
    actual.fit(1)
    expected.fit(1)
    assert_same(actual, expected, TOLERANCE[torch.float32])


def noise_differs_between_ranks(strategy: str) -> None:
    """Rank 0 keeps its random state, and the other ranks are seeded from this state."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 2))
    before = torch.get_rng_state()
    made = engine(strategy)
    module = made.setup(model)
    assert (dist.get_rank() == 0) == torch.equal(torch.get_rng_state(), before)
    drawn = made.all_gather([torch.rand(1).item(), random.random(), float(np.random.rand())])
    assert all(a != b for a, b in zip(*drawn, strict=True))
    masks = made.all_gather(module.get_submodule("module.0" if strategy == "ddp" else "0")(torch.ones(64)).tolist())
    assert masks[0] != masks[1]


MEANS: list[torch.Tensor] = []


def buffers_are_broadcast(strategy: str) -> None:
    """Batch norm uses the batch statistics of each rank and, in DDP and FSDP2, the running statistics of rank 0."""
    actual = learner(dp.SGD, strategy, noisy=True, examples=10)
    actual.fit(1)
    mean = full_tensor(actual.model.get_submodule("2").running_mean)
    assert torch.equal(mean, torch.tensor(actual.engine.broadcast(mean.tolist())))
    assert mean.abs().max() > 0
    MEANS.append(mean)
    assert torch.allclose(mean, MEANS[0], rtol=1e-6)


def gradients_are_reduced_once_per_step() -> None:
    actual, reductions = learner(dp.SGD, "ddp", 2), []
    actual.fit(1)

    def count(state, bucket):
        del state
        reductions.append(1)
        future = torch.futures.Future()
        total = bucket.buffer()
        dist.all_reduce(total)
        future.set_result(total / dist.get_world_size())
        return future

    actual._module.register_comm_hook(None, count)
    actual.fit(1)
    assert len(reductions) == 2  # three batches in two steps


class SharedWeights(nn.Module):
    """Model with a module list, a tied weight, and a parameter that belongs to no submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.tied, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
        self.head.weight = self.tied.weight
        self.shift, self.out = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + self.shift
        return self.out(self.head(self.tied(x)))


def parameters_survive_evaluation(strategy: str) -> None:
    """After an evaluation, the model still contains the tensors of the optimizer."""
    actual = learner(dp.AdamW, strategy, custom=dataclasses.replace(problem(), model=SharedWeights()))
    actual.fit(1)
    optimized = {id(p) for group in actual.opt.param_groups for p in group["params"]}
    assert {id(p) for p in actual.model.parameters()} == optimized
    saved = actual.state_dict()["optimizer"]["state"]
    assert len(saved) == len(optimized)
    assert all(name in str(list(saved)) for name in ("shift", "out.weight", "layers.1.bias"))


def module_lists_and_tied_weights(strategy: str) -> None:
    learners = []
    for where in (strategy, None):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            custom = dataclasses.replace(problem(), model=SharedWeights())
        learners.append(learner(dp.AdamW, where, custom=custom))
        learners[-1].fit(2)
    assert_same(learners[0], learners[1], TOLERANCE[torch.float32])


def overflow_skips_the_step_on_all_ranks(strategy: str) -> None:
    class InfiniteLoss(Callback):
        def after_loss(self, learner):
            if learner.training and learner.batch.index == 1 and learner.engine.global_rank == 1:
                learner.batch.loss = learner.batch.loss * float("inf")

    for make in (dp.AdamW, torch.optim.AdamW):
        actual = learner(partial(make, lr=0.01), strategy, precision="fp16")
        actual._callbacks.append(InfiniteLoss())
        actual.fit(2)
        assert actual.steps == 4, actual.steps
        assert_equal_on_all_ranks(actual)
        assert all(value.isfinite().all() for value in weights(actual).values())


def collectives() -> None:
    made, rank = engine("ddp"), dist.get_rank()
    assert (made.global_rank, made.world_size, made.is_rank_zero, made.sharded) == (rank, 2, rank == 0, False)
    assert made.all_reduce_sum([1.0, rank]) == [2.0, 1.0]
    assert made.all_gather({"a": rank}) == [{"a": 0}, {"a": 1}]
    assert made.broadcast(f"from {rank}") == "from 0"
    assert [made.any(condition) for condition in (False, rank == 1, True)] == [False, True, True]
    assert engine("fsdp", devices=2).sharded
    assert_raises(dp.ArgumentError, "devices=3, but the launcher started 2 processes", lambda: engine("ddp", devices=3))


# ---- resume ---------------------------------------------------------------------------------------------------------


STRATEGIES = ("ddp", "fsdp")
METHODS: dict[str, Any] = {
    "AdamW": partial(dp.AdamW, lr=0.05, schedule=dp.schedules.Cosine(9)),
    "AutoSGM": partial(dp.AutoSGM, lr=0.02, numerator=4, beta_n=0.99),
    "NAdam": partial(dp.NAdam, lr=0.02),
    "torch-Adam": partial(torch.optim.Adam, lr=0.02),
    "torch-SGD": partial(torch.optim.SGD, lr=0.02, momentum=0.9),
    "ESGD": partial(PRODUCTS["ESGD-1"], relative_step=1e-3),
}


def resumes(name: str, strategy: str) -> None:
    """Resuming with the same number of processes is bit-identical, including dropout and batch norm."""
    options = {"noisy": True, "examples": 10, "dtype": torch.float32}
    torch.manual_seed(1)
    uninterrupted = learner(METHODS[name], strategy, **options)
    uninterrupted.fit(3)
    torch.manual_seed(1)
    stop = StopAt(3)
    learner(METHODS[name], strategy, **options).fit(3, callbacks=[stop])
    torch.manual_seed(98 + dist.get_rank())
    resumed = learner(METHODS[name], strategy, seed=4, **options)
    resumed.fit(3, resume=state_of_rank_zero(stop.state))
    assert_same(resumed, uninterrupted, 0.0)


def resumes_with_other_world_size(name: str, saved_by: str | None, resumed_by: str | None, accumulate: int) -> None:
    """Resuming with a different number of processes gives the results of an uninterrupted single process."""
    make, options = METHODS[name], {"accumulate": accumulate, "dtype": torch.float64}
    if name == "ESGD" and "fsdp" in (saved_by, resumed_by):
        make = partial(make, probe="differences")

    def create(strategy: str | None, **more: Any) -> Learner:
        group = {} if strategy or name != "ESGD" else {"process_group": own_group()}
        return learner(partial(make, **group), strategy, **options, **more)

    uninterrupted, stop = create(None), StopAt(5 if accumulate == 2 else 4)
    uninterrupted.fit(3)
    create(saved_by).fit(3, callbacks=[stop])
    assert stop.state is not None
    resumed = create(resumed_by, seed=4)
    resumed.fit(3, resume=state_of_rank_zero(stop.state))
    assert_same(resumed, uninterrupted, 1e-9 if name == "ESGD" else TOLERANCE[torch.float64])


# ---- the table ------------------------------------------------------------------------------------------------------

FAST = "^(?!slow)"
"""Pattern of the names of fast checks."""
FAST_METHODS = ("adam", "nag-decay", "autosgm-2-debiased", "esgd-2")
"""Methods of fast checks, two with each strategy."""


def table() -> dict[str, Any]:
    """Return a dict from names to checks; the names of checks outside the fast set start with "slow"."""
    checks: dict[str, Any] = {}

    def add(fast: bool, check: Any, *arguments: Any, name: str = "") -> None:
        shown = [name] if name else [str(argument) for argument in arguments]
        title = f"{check.__name__}[{'-'.join(shown)}]" if arguments else check.__name__
        checks[title if fast else f"slow {title}"] = partial(check, *arguments)

    for i, subject in enumerate(SUBJECTS):
        for j, strategy in enumerate(STRATEGIES):
            for accumulate in (1, 2):
                for dtype in TOLERANCE:
                    chosen = j == i % 2 and accumulate == 1 + i // 2 % 2 and dtype == torch.float32
                    fast = chosen and subject.name in FAST_METHODS
                    name = f"{subject}-{strategy}-{accumulate}-{str(dtype)[6:]}"
                    add(fast, every_method, subject.name, strategy, accumulate, dtype, 1 if fast else 3, name=name)
    for j, strategy in enumerate(STRATEGIES):
        for method in PRODUCTS:
            for accumulate in (1, 2):
                fast = accumulate == 2 and (method, strategy) in (("ESGD-1", "ddp"), ("Sophia", "fsdp"))
                add(fast, hessian_vector_products, method, strategy, accumulate)
        for method in METHODS:
            add(method == "AdamW", resumes, method, strategy)
            for accumulate in (1, 2):
                for k, (saved_by, resumed_by) in enumerate(((strategy, None), (None, strategy))):
                    fast = (method, accumulate) == ("AdamW", 1) and j == k
                    add(fast, resumes_with_other_world_size, method, saved_by, resumed_by, accumulate)
        add(True, weights_are_broadcast, strategy)
        add(True, noise_differs_between_ranks, strategy)
        add(True, buffers_are_broadcast, strategy)
        add(True, parameters_survive_evaluation, strategy)
        add(strategy == "ddp", module_lists_and_tied_weights, strategy)
        add(strategy == "ddp", overflow_skips_the_step_on_all_ranks, strategy)
        add(True, plain_optimizer_equals_one_process, strategy)
        add(strategy == "ddp", activations_equal_those_of_one_process, strategy)
        for accumulate in (1, 2):
            add((strategy, accumulate) == ("ddp", 2), watched_fit_equals_unwatched_fit, strategy, accumulate)
            add(
                (strategy, accumulate) == ("ddp", 2), frozen_parameters_equal_those_of_one_process, strategy, accumulate
            )
        for saved_by, resumed_by in ((strategy, None), (None, strategy)):
            add(saved_by == "ddp", frozen_parameters_resume, saved_by, resumed_by)
        add(strategy == "ddp", second_order_rejects_frozen_parameters, strategy)
        add(True, nonfinite_values_are_diagnosed, strategy)
        add(True, nonfinite_evaluation_is_diagnosed, strategy)
        add(strategy == "ddp", logged_values_are_means_over_all_examples, strategy)
        add(strategy == "ddp", loss_curve_is_of_all_examples, strategy)
        add(strategy == "ddp", signal_on_one_rank_saves_on_all, strategy)
        for resumed_by in (strategy, None):
            add(resumed_by == "ddp", logged_values_resume, strategy, resumed_by)
        for workers in (0, 2):
            add(strategy == "ddp", loader_is_sharded, strategy, workers)
            add(workers == 0 and strategy == "ddp", loader_resumes, strategy, workers)
        add(False, loader_resumes_with_other_world_size, strategy, None)
        add(strategy == "ddp", loader_resumes_with_other_world_size, None, strategy)
        for source in ("loader", "unsized"):
            add((source, strategy) == ("loader", "ddp"), steps_equal_those_of_one_process, strategy, source)
            add(source == "loader" and strategy == "ddp", fit_by_steps_resumes, strategy, source)
        add(strategy == "ddp", time_limit_ends_all_ranks_after_the_same_step, strategy)
        for objects in ("own", "torchmetrics"):
            fast = (objects, strategy) == ("own", "ddp")
            add(fast, metric_objects_agree, objects, strategy)
            add(fast, metric_objects_resume, objects, strategy)
        add(strategy == "ddp", evaluation_within_a_fit_changes_nothing, strategy)
        add(True, predictions_are_in_order, strategy)
    add(False, objects_with_merged_statistics_agree)
    add(True, objects_that_cannot_be_synchronized_raise)
    add(False, objects_that_are_not_synchronized_raise)
    add(True, finite_differences_use_all_batches_of_a_step)
    add(True, gradients_are_reduced_once_per_step)
    add(True, collectives)
    add(True, changed_data_are_refused_on_all_ranks, "list")
    add(True, changed_data_are_refused_on_all_ranks, "loader")
    for accumulate in (1, 2):
        add(accumulate == 1, unused_parameters_are_named, accumulate)
        add(accumulate == 2, unused_parameters_are_found, accumulate)
    add(True, batch_norm_of_one_example_per_rank)
    add(True, unshardable_sources_raise)
    add(True, list_of_batches_is_sharded)
    add_count_checks(add)
    return checks


if __name__ == "__main__":
    cache_entry_points()
    run_checks(table())
