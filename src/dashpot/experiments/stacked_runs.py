"""Training of stacked networks at several learning rates, with rates chosen on validation data and other seeds.

An elementwise optimizer acts on all seeds at once; AutoSGM, which averages over the elements of a tensor, has separate
tensors for each seed. The networks of `TUNING_SEEDS` choose the settings by their validation accuracy, and those of the
other seeds are judged on the test data; all settings have the same initial weights and batches for the same seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dashpot.experiments.image_vectors import ImageVectors
from dashpot.experiments.progress import report_progress
from dashpot.experiments.stacked_network import StackedNetwork, accuracies, losses
from dashpot.runs.entries import entry

TUNING_SEEDS = (1000, 1001)
"""Seeds of the networks that choose the settings; none of them is judged."""
LOSS_EXAMPLES = 6000
"""Number of training examples of the training loss."""


class SkipNetwork(StackedNetwork):
    """Stacked networks that add the output of each hidden layer after the first one to its input.

    The input of a hidden layer after the first one is x, its output x + tanh(x) W + b.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs of shape (networks, examples, classes) for inputs (networks or 1, examples, features)."""
        x = x.to(self.weights[0].dtype).expand(len(self.weights[0]), -1, -1)
        layers = list(zip(self.weights, self.biases, strict=True))
        x = torch.baddbmm(layers[0][1], x, layers[0][0])
        for weight, bias in layers[1:-1]:
            x = x + torch.baddbmm(bias, torch.tanh(x), weight)
        return torch.baddbmm(layers[-1][1], torch.tanh(x), layers[-1][0])


@dataclass(frozen=True)
class Plan:
    """Training of all networks of an experiment.

    Args:
        data: Images.
        seeds: Judged seeds.
        hidden: Numbers of hidden units.
        batch: Number of images per batch.
        epochs: Number of epochs.
        evaluations: Number of evaluations at equal intervals; the last one is at the end.
        skips: Whether hidden layers after the first one have skip connections; they need equal widths.
        separate: Whether every network has its own parameters in the optimizer, for methods that are not elementwise.
    """

    data: ImageVectors
    seeds: tuple[int, ...]
    hidden: tuple[int, ...] = (32,)
    batch: int = 50
    epochs: int = 12
    evaluations: int = 1
    skips: bool = False
    separate: bool = False

    @property
    def steps(self) -> int:
        """Number of steps of a run."""
        return self.epochs * (len(self.data.train[1]) // self.batch)

    def network(self) -> StackedNetwork:
        """Return newly initialized networks of the tuning seeds and the judged seeds."""
        kind = SkipNetwork if self.skips else StackedNetwork
        return kind((self.data.train[0].shape[1], *self.hidden, 10), self.all_seeds)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Tuning seeds and then the judged seeds."""
        return (*TUNING_SEEDS, *self.seeds)


@dataclass(frozen=True)
class StackedRuns:
    """Results of one setting for all seeds.

    A network with a loss that is not finite has diverged; it has the accuracies and the loss of its untrained state.

    Attributes:
        tuning: Mean validation accuracy of the networks of the tuning seeds after the last step.
        test: Test accuracies of the judged seeds after the last step.
        steps: Steps of the evaluations, from 0.
        losses: Training losses by evaluation and seed; the tuning seeds are first.
        distance: Distances of the parameters from the initial ones, of the judged seeds.
    """

    tuning: float
    test: list[float]
    steps: list[int]
    losses: list[list[float]]
    distance: list[float]

    @property
    def loss(self) -> list[float]:
        """Training losses of the judged seeds after the last step."""
        return self.losses[-1][len(TUNING_SEEDS) :]


Make = Callable[[Iterable[nn.Parameter], int], torch.optim.Optimizer]


def maker(method: str, lr: float, schedule: str | None = None, **options: object) -> Make:
    """Return the function that creates a method by name, as in a comparison, with the eager engine."""
    made = entry(method, "", lr=lr, schedule=schedule, options={"engine": "eager", **options})
    return made.optimizer


def train(plan: Plan, make: Make) -> StackedRuns:
    """Train the networks of all seeds with one optimizer.

    Args:
        plan: Networks, data and length.
        make: Function that creates the optimizer from the parameters and the number of steps.
    """
    network = plan.network()
    start = [p.detach().clone() for p in network.parameters()]
    trained = _separated(network) if plan.separate else list(network.parameters())
    optimizer = make(trained, plan.steps)
    source = plan.data.batches(plan.all_seeds, plan.batch)
    times = sorted({round(plan.steps * k / plan.evaluations) for k in range(plan.evaluations + 1)})
    untrained = _losses(network, plan)
    curve = [untrained]
    first = [_accuracies(network, part) for part in (plan.data.validation, plan.data.test)]
    for step in range(1, plan.steps + 1):
        inputs, labels = next(source)
        optimizer.zero_grad()
        network.zero_grad()
        losses(network, inputs, labels).sum().backward()
        if plan.separate:
            _pass_gradients(network, trained)
        optimizer.step()
        if step in times:
            curve.append(_losses(network, plan))
    lost = ~curve[-1].isfinite()
    last = [_accuracies(network, part) for part in (plan.data.validation, plan.data.test)]
    validation, test = (torch.where(lost, before, after) for before, after in zip(first, last, strict=True))
    moved = [(p.detach() - w).flatten(1) for p, w in zip(network.parameters(), start, strict=True)]
    count = len(TUNING_SEEDS)
    return StackedRuns(
        tuning=float(validation[:count].mean()),
        test=test[count:].tolist(),
        steps=times,
        losses=[torch.where(values.isfinite(), values, untrained).tolist() for values in curve],
        distance=torch.cat(moved, 1).norm(dim=1)[count:].nan_to_num(posinf=0.0).tolist(),
    )


def _separated(network: nn.Module) -> list[nn.Parameter]:
    """Return one parameter for each network and tensor, which shares its memory with the stacked parameter."""
    return [nn.Parameter(row) for p in network.parameters() for row in p.detach().split(1)]


def _pass_gradients(network: nn.Module, parts: Sequence[nn.Parameter]) -> None:
    """Set the gradients of the parameters of `_separated` to the rows of the stacked gradients."""
    rows = [row for p in network.parameters() if p.grad is not None for row in p.grad.split(1)]
    for part, row in zip(parts, rows, strict=True):
        part.grad = row


@torch.no_grad()
def _losses(network: StackedNetwork, plan: Plan) -> Tensor:
    """Return the training loss of each network."""
    inputs, labels = (part[:LOSS_EXAMPLES] for part in plan.data.train)
    return losses(network, inputs[None], labels[None]).double()


@torch.no_grad()
def _accuracies(network: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
    """Return the accuracy of each network."""
    return accuracies(network(part[0][None]), part[1])


def over_rates(plan: Plan, method: str, rates: Sequence[float], schedule: str | None = None) -> list[StackedRuns]:
    """Train a method at each rate."""
    plan = dataclasses.replace(plan, separate=method.startswith("autosgm"))
    found = []
    for number, lr in enumerate(rates, start=1):
        report_progress(f"{plan.data.name}, {method}{f' {schedule}' if schedule else ''}, rate {number}/{len(rates)}")
        found.append(train(plan, maker(method, lr, schedule)))
    return found


def best_rate(runs: Sequence[StackedRuns]) -> int:
    """Return the index of the rate, the lowest of equal ones, with the highest validation accuracy."""
    return max(range(len(runs)), key=lambda index: (runs[index].tuning, -index))
