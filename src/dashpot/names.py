"""Names of methods, tasks and schedules, with a description of each.

These tables are the source of the registries of the library, and of the listings and checks of the command line, which
does not load torch for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class MethodName:
    """A row of the table of methods.

    Args:
        path: Class of the optimizer, as `module:Class`.
        lr: Learning rate for tasks without a tuned learning rate.
        summary: First line of the docstring of the class.
        variants: Settings for additional entries of a comparison, by name.
    """

    path: str
    lr: float
    summary: str
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


METHODS: Mapping[str, MethodName] = {
    "sgd": MethodName(
        "dashpot.optimizers.torch_compatible:SGD",
        0.1,
        "Stochastic gradient descent with optional heavy-ball or Nesterov momentum.",
    ),
    "heavy-ball": MethodName("dashpot.optimizers.momentum:HeavyBall", 0.01, "Polyak's heavy ball."),
    "nag": MethodName("dashpot.optimizers.momentum:NAG", 0.01, "Nesterov's accelerated gradient."),
    "qhm": MethodName(
        "dashpot.optimizers.momentum:QHM",
        0.1,
        "Quasi-hyperbolic momentum: a weighted mean of the gradient and its moving average.",
    ),
    "rmsprop": MethodName(
        "dashpot.optimizers.torch_compatible:RMSprop",
        1e-3,
        "The gradient divided by its root mean square, with optional heavy-ball momentum.",
    ),
    "adagrad": MethodName(
        "dashpot.optimizers.torch_compatible:Adagrad",
        0.01,
        "AdaGrad: the gradient divided by the root of the sum of its squares over all steps.",
    ),
    "adam": MethodName(
        "dashpot.optimizers.torch_compatible:Adam",
        1e-3,
        "Adam: the bias-corrected mean of the gradient divided by the root of its bias-corrected mean square.",
    ),
    "adamw": MethodName("dashpot.optimizers.torch_compatible:AdamW", 1e-3, "AdamW: Adam with decoupled weight decay."),
    "nadam": MethodName(
        "dashpot.optimizers.torch_compatible:NAdam",
        1e-3,
        "NAdam: Adam with Nesterov momentum that grows from beta1/2 to beta1.",
    ),
    "qhadam": MethodName(
        "dashpot.optimizers.adam_variants:QHAdam",
        1e-3,
        "QHAdam: Adam with quasi-hyperbolic averages in the numerator and the denominator.",
    ),
    "centered-adam": MethodName(
        "dashpot.optimizers.adam_variants:CenteredAdam",
        1e-3,
        "Adam with the gradient's standard deviation in place of its root mean square.",
    ),
    "autosgm": MethodName(
        "dashpot.optimizers.autosgm:AutoSGM",
        1e-3,
        "AutoSGM: pole-zero filter, second-moment denominator, and a correlation or moment numerator.",
        {f"autosgm-{n}": {"numerator": n} for n in range(5)},
    ),
    "esgd": MethodName(
        "dashpot.optimizers.second_order:ESGD",
        0.1,
        "ESGD-M: quasi-hyperbolic momentum divided by the row norms of the Hessian, with warm-up of the learning rate.",
    ),
    "adahessian": MethodName(
        "dashpot.optimizers.second_order:AdaHessian",
        0.03,
        "AdaHessian: Adam with Hutchinson's estimate of the Hessian's diagonal in the denominator.",
    ),
    "sophia": MethodName(
        "dashpot.optimizers.second_order:Sophia",
        1e-3,
        "Sophia-H: the averaged gradient divided by the averaged diagonal of the Hessian, clipped elementwise.",
    ),
}

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    variant: (name, settings) for name, method in METHODS.items() for variant, settings in method.variants.items()
}
"""For each name of a variant, the pair (method name, settings)."""

TASKS: Mapping[str, str] = {
    "digits": "dashpot.tasks.digits:task",
    "fashion-mnist": "dashpot.tasks.fashion_mnist:task",
    "fashion-mnist-resnet": "dashpot.tasks.fashion_mnist_resnet:task",
    "cifar10": "dashpot.tasks.cifar10:task",
    "shakespeare-char": "dashpot.tasks.shakespeare_char:task",
    "wikitext": "dashpot.tasks.wikitext:task",
    "quadratic": "dashpot.tasks.synthetic:quadratic",
    "noisy-quadratic": "dashpot.tasks.synthetic:noisy_quadratic",
    "rosenbrock": "dashpot.tasks.synthetic:rosenbrock",
    "saddle": "dashpot.tasks.synthetic:saddle",
}
"""For each task, the function that creates it, as `module:function`."""

SCHEDULES: Mapping[str, str] = {
    "constant": "constant",
    "linear": "linear decay; floor=0",
    "polynomial": "polynomial decay; power=1, floor=0",
    "cosine": "cosine decay; floor=0, after=hold",
    "cosine-restarts": "cosine cycles; cycles=3, mult=1, floor=0",
    "exponential": "exponential decay; final=0.01",
    "inverse-time": "inverse-time decay; final=0.1",
    "step": "drops at equal intervals; drops=2, factor=0.1",
    "1cycle": "1cycle of learning rate and momentum; pct_start=0.3, div=25, final_div=1e4, anneal=cosine, "
    "three_phase=false",
    "1cycle-momentum": "1cycle of the momentum alone; high=0.95, low=0.85, pct_start=0.3, anneal=cosine, "
    "three_phase=false",
    "window": "one window; shape (required: flat, raised-cosine, polynomial, exponential, simple-polynomial, logistic, "
    "late-logistic), order, floor=0, half=true, flat_top=0, repeats=1, hold=1, sequence=uniform",
    "warmup": "linear warm-up over a fraction of the steps, then constant; warmup=0.1, start=0.01",
    "warmup-linear": "linear warm-up, then linear decay; warmup=0.1, start=0.01, floor=0",
    "warmup-cosine": "linear warm-up, then cosine decay; warmup=0.1, start=0.01, floor=0",
}
"""For each schedule, a description and its options with their defaults."""


@dataclass(frozen=True)
class ExperimentName:
    """A row of the table of experiments.

    Args:
        path: Function from (seeds, quick) to the outcome, as `module:function`.
        summary: Tested statement in one line.
    """

    path: str
    summary: str


EXPERIMENTS: Mapping[str, ExperimentName] = {
    "averages": ExperimentName(
        "dashpot.experiments.averages:run",
        "Moving averages of noisy points: noise, delay, initial bias and its corrections.",
    ),
    "initialisation": ExperimentName(
        "dashpot.experiments.initialisation:run",
        "Deep networks with right and wrong initializations, with and without normalization, warm-up and 1cycle.",
    ),
    "batch-invariance": ExperimentName(
        "dashpot.experiments.batch_invariance:run",
        "Batches from 32 to 1024 with and without scaled rates, and larger batches in place of smaller rates.",
    ),
    "clipping": ExperimentName(
        "dashpot.experiments.clipping:run",
        "An exploding recurrent network, diagnosed and cured by clipping, and a step across a cliff.",
    ),
    "convergence": ExperimentName(
        "dashpot.experiments.convergence:run",
        "Rates that vanish and rates that do not, three counterexamples, and the physicist's argument.",
    ),
    "smoothing": ExperimentName(
        "dashpot.experiments.smoothing:run",
        "Filtering the gradient as smoothing of the loss: directions, speed, minima and ripple.",
    ),
    "momentum-design-space": ExperimentName(
        "dashpot.experiments.momentum_design_space:run",
        "The zero of the gradient filter: stability, speed, variance and training.",
    ),
    "parameter-changes": ExperimentName(
        "dashpot.experiments.parameter_changes:run",
        "Parameter changes as a first-order time-varying filter: identity, published form, decay and bound.",
    ),
    "temperature": ExperimentName(
        "dashpot.experiments.temperature:run",
        "The learning rate as temperature: equilibrium distributions, momentum, batch size and snapshots.",
    ),
    "l2-vs-decoupled": ExperimentName(
        "dashpot.experiments.l2_vs_decoupled:run",
        "L2 regularization and decoupled weight decay in AdaGrad, Adam and AdamW, and as damping.",
    ),
    "numerators": ExperimentName(
        "dashpot.experiments.numerators:run",
        "AutoSGM's numerators: largest usable learning rates, and scores at tuned rates.",
    ),
    "esgd": ExperimentName(
        "dashpot.experiments.esgd:run",
        "ESGD-M against plain ESGD, part by part, and the recommended settings of quasi-hyperbolic momentum.",
    ),
    "plateau": ExperimentName(
        "dashpot.experiments.plateau:run",
        "Steps to leave saddles and plateaus, at the default rate of each method and at several rates.",
    ),
    "paths": ExperimentName(
        "dashpot.experiments.paths:run",
        "Momentum, RMSprop and Adam in a ravine and in Rosenbrock's valley; saddles in high dimension.",
    ),
    "normalisation": ExperimentName(
        "dashpot.experiments.normalisation:run",
        "Adam as normalization of the gradient: division by root mean square, standard deviation or variance.",
    ),
    "rescaling": ExperimentName(
        "dashpot.experiments.rescaling:run",
        "Learning rates after rescaling of parameters or loss: SGD, Adagrad and Adam, and second-order methods.",
    ),
    "lesson": ExperimentName(
        "dashpot.experiments.lesson:run",
        "The lesson's table of optimizers on Fashion-MNIST with several seeds, and its order tested pair by pair.",
    ),
    "lr-decay": ExperimentName(
        "dashpot.experiments.lr_decay:run",
        "Decaying rates: plain methods against Adam, slow and fast cooling, and drops of the rate.",
    ),
    "lr-sensitivity": ExperimentName(
        "dashpot.experiments.lr_sensitivity:run",
        "Ranges of good learning rates of seven methods, and other settings of Adam.",
    ),
    "three-optimizers": ExperimentName(
        "dashpot.experiments.three_optimizers:run",
        "Plain descent, momentum and Adam on a simple set: a low rate, speed and final accuracy.",
    ),
}
"""For each name of an experiment, its function and a summary."""


def known_methods() -> tuple[str, ...]:
    """Return the names of all methods, and of their variants, `autosgm-K` for each numerator K."""
    return (*METHODS, *VARIANTS)


def load(path: str) -> Any:
    """Import the object at `module:name`."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
