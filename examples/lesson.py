"""Optimizers and schedulers, step by step: part 10 of the SlowAI notebooks with dashpot's learner.

Every optimizer is written by hand, and trains the notebook's network on Fashion-MNIST. The figures are written to the
folder `lesson`, and the last table compares the accuracies with those of the notebook, which has one run of each.
Run: python examples/lesson.py            (digits instead of Fashion-MNIST: python examples/lesson.py digits)
"""

import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.optim import lr_scheduler

import dashpot as dp
from dashpot import schedules, tasks
from dashpot.training import Activations, Callback, Learner, Progress, Recorder, Schedule, one_cycle

SEED = 42
FIGURES = Path("lesson")


# ---- 1. The model and the training loop ------------------------------------------------------------------------------

# Each layer halves the image, from 28 x 28 (or 8 x 8) down to one pixel with ten outputs, one per class.
CHANNELS = {"fashion-mnist": (1, 8, 16, 32, 64), "digits": (1, 16, 32)}
BATCH_SIZES = {"fashion-mnist": (512, 2048), "digits": (50, 200)}
HIGH = {"fashion-mnist": 0.2, "digits": 0.5}  # a learning rate that is too high without normalization


def initialize(module, leak):
    """Initialize the weights so that a leaky ReLU followed by a convolution preserves the mean square of its input.

    The leaky ReLU scales the mean square by (1 + leak^2) / 2, and the convolution by the number of inputs of an output
    times the variance of the weights.
    """
    if isinstance(module, nn.Conv2d):
        inputs = module.weight[0].numel()
        nn.init.normal_(module.weight, std=(2 / (1 + leak**2) / inputs) ** 0.5)


def network(task, leak=0.1):
    torch.manual_seed(SEED)
    layers = []
    for i, (inputs, outputs) in enumerate(pairwise(CHANNELS[task.name])):
        size = 5 if i == 0 else 3
        layers += [nn.Conv2d(inputs, outputs, size, stride=2, padding=size // 2), nn.LeakyReLU(leak)]
        layers += [tasks.DetachedBatchNorm2d(outputs)]
    model = nn.Sequential(*layers, nn.Conv2d(CHANNELS[task.name][-1], 10, 3, stride=2, padding=1), nn.Flatten())
    return model.apply(partial(initialize, leak=leak))


class MulticlassAccuracy:
    """A metric of a whole epoch, with the interface of torchmetrics, whose objects the learner accepts as well."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.correct, self.total = 0, 0

    def update(self, output, y):
        self.correct += (output.argmax(1) == y).sum()
        self.total += len(y)

    def compute(self):
        return float(self.correct) / self.total


def make_learner(task, optimizer=torch.optim.SGD, lr=None, model=None):
    problem = task.build(SEED)
    return Learner(
        network(task) if model is None else model,
        problem.train,
        problem.evaluation,
        loss=nn.functional.cross_entropy,
        metrics={"accuracy": MulticlassAccuracy()},
        optimizer=optimizer,
        lr=lr,
    )


def train(task, optimizer=torch.optim.SGD, lr=None, epochs=3, callbacks=(), model=None):
    """Train a model, print the table of its epochs, and return the learner."""
    learner = make_learner(task, optimizer, lr, model)
    learner.fit(epochs, callbacks=[Progress(), *callbacks])
    return learner


class MomentumCallback(Callback):
    """Momentum without an optimizer: keep 85 % of the gradient instead of clearing it."""

    def zero_grad(self, learner, proceed):
        for p in learner.model.parameters():
            p.grad *= 0.85


def momentum_as_a_callback(task):
    """The best model of the previous notebook: three epochs, then two with a lower learning rate."""
    first = train(task, lr=0.2, callbacks=[MomentumCallback()])
    return train(task, lr=0.05, epochs=2, callbacks=[MomentumCallback()], model=first.model)


# ---- 2. Stochastic gradient descent ----------------------------------------------------------------------------------

# An optimizer needs a constructor, `step` and `zero_grad`. The learner warns that it cannot save the state of these
# classes: checkpoints also need `state_dict` and `load_state_dict`.


class SGD:
    def __init__(self, params, lr, wd=0):
        self.params, self.lr, self.wd, self.i = list(params), lr, wd, 0

    def step(self):
        with torch.no_grad():
            for p in self.params:
                self.reg_step(p)
                self.opt_step(p)
        self.i += 1

    def opt_step(self, p):
        p -= self.lr * p.grad

    def reg_step(self, p):
        if self.wd != 0:
            p *= 1 - self.lr * self.wd

    def zero_grad(self):
        for p in self.params:
            p.grad.zero_()


def weight_decay_is_a_penalty(task):
    """A penalty wd/2 sum(w^2) adds wd w to the gradient, so that a step of SGD scales the weights by 1 - lr wd."""
    lr, wd = 0.1, 0.5
    results = []
    for penalty in (True, False):
        w = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
        loss = (w**3).sum() + (wd / 2 * w**2).sum() * penalty
        loss.backward()
        SGD([w], lr, 0 if penalty else wd).step()
        results.append(w.detach())
    print(f"weights after a step: {results[0].numpy()} with a penalty, {results[1].numpy()} with decay")
    return results


# ---- 3. Momentum -----------------------------------------------------------------------------------------------------


def moving_averages(task):
    """Average noisy points of a parabola: a larger beta gives a smoother average, which lags behind further."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.linspace(-4, 4, 100)
    y = 1 - (x / 3) ** 2 + 0.1 * torch.randn(100, generator=draw)
    figure, axes = plt.subplots(2, 2, figsize=(8, 5), sharex=True, sharey=True, layout="constrained")
    roughness = {}
    for beta, ax in zip((0.5, 0.7, 0.9, 0.99), axes.flat, strict=True):
        average, averages = torch.zeros(()), []
        for point in y:
            average = beta * average + (1 - beta) * point
            averages.append(average)
        line = torch.stack(averages)
        roughness[beta] = line.diff().diff().std().item()
        ax.scatter(x, y, s=8, color="tab:gray", label="points")
        ax.plot(x, line, color="tab:purple", label="average")
        ax.set_title(f"beta = {beta}: roughness {roughness[beta]:.4f}", fontsize="medium")
    axes[0, 0].legend(frameon=False)
    save(figure, "averages")
    print("roughness:", ", ".join(f"{value:.4f} for beta {beta}" for beta, value in roughness.items()))
    return roughness


class MomentumSGD(SGD):
    def __init__(self, params, lr, wd=0, mom=0.9):
        super().__init__(params, lr, wd)
        self.mom = mom

    def opt_step(self, p):
        grad_avg = getattr(p, "grad_avg", torch.zeros_like(p.grad))
        p.grad_avg = self.mom * grad_avg + (1 - self.mom) * p.grad
        p -= self.lr * p.grad_avg


def momentum(task):
    """The average is less noisy than the gradient, so the learning rate can be much higher: 1.25.

    The weights change quickly, and the running statistics of the normalization lag behind. The evaluation uses these
    statistics, so its accuracy varies from epoch to epoch (.590, .851 and .866 in the notebook).
    """
    return train(task, MomentumSGD, lr=1.25)


def batch_sizes(task):
    """The gradient of a larger batch is less noisy, but an epoch has fewer steps, so that it makes less progress."""
    accuracies = {}
    for size in BATCH_SIZES[task.name]:
        learner = make_learner(tasks.get(task.name, batch_size=size), torch.optim.Adam, lr=1e-2)
        learner.fit(1)
        accuracies[size] = learner.history[-1]["eval"]["accuracy"]
        print(f"batch size {size:4}: {learner.steps:3} steps, accuracy {accuracies[size]:.3f} after an epoch")
    return accuracies


class Directions(Callback):
    """Cosines between the gradients, and between their averages, of consecutive steps."""

    def before_fit(self, learner):
        self.previous, self.cosines = None, []

    def after_step(self, learner):
        parameters = list(learner.model.parameters())
        vectors = [torch.cat([getattr(p, name).flatten() for p in parameters]) for name in ("grad", "grad_avg")]
        if self.previous is not None:
            pairs = zip(vectors, self.previous, strict=True)
            self.cosines.append([torch.cosine_similarity(a, b, dim=0) for a, b in pairs])
        self.previous = vectors


def momentum_smooths_the_path(task):
    """The gradients of consecutive batches point in different directions, and their averages in nearly the same."""
    directions = Directions()
    make_learner(task, MomentumSGD, lr=0.1).fit(steps=20, callbacks=[directions], evaluate=False)
    gradients, averages = torch.tensor(directions.cosines).mean(0).tolist()
    print(f"mean cosine between consecutive directions: gradients {gradients:.2f}, averages {averages:.2f}")
    return gradients, averages


def momentum_of_dashpot(task):
    """The same method in dashpot is quasi-hyperbolic momentum with nu = 1; the weights after 20 steps are equal."""
    learners = [make_learner(task, make, lr=0.05) for make in (MomentumSGD, partial(dp.QHM, pole=0.9, nu=1.0))]
    for learner in learners:
        learner.fit(steps=20, evaluate=False)
    mine, theirs = (learner.model.parameters() for learner in learners)
    difference = max((a - b).abs().max().item() for a, b in zip(mine, theirs, strict=True))
    print(f"largest difference between the weights of MomentumSGD and QHM: {difference:.1e}")
    return difference


# ---- 4. RMSProp ------------------------------------------------------------------------------------------------------


class RMSProp(SGD):
    """Divide the gradient by the root of an average of its square: all weights move at a similar speed."""

    def __init__(self, params, lr, wd=0.0, sqr_mom=0.99, eps=1e-5):
        super().__init__(params, lr, wd)
        self.sqr_mom, self.eps = sqr_mom, eps

    def opt_step(self, p):
        # The average starts at the first square. From 0, it would be too small, and the first steps far too large.
        sqr_avg = getattr(p, "sqr_avg", p.grad**2)
        p.sqr_avg = self.sqr_mom * sqr_avg + (1 - self.sqr_mom) * p.grad**2
        p -= self.lr * p.grad / (p.sqr_avg.sqrt() + self.eps)


def rmsprop(task):
    return train(task, RMSProp, lr=1e-2)


# ---- 5. Adam: both averages ------------------------------------------------------------------------------------------


class Adam(SGD):
    def __init__(self, params, lr, wd=0.0, beta1=0.9, beta2=0.99, eps=1e-5):
        super().__init__(params, lr, wd)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def opt_step(self, p):
        if not hasattr(p, "avg"):
            p.avg, p.sqr_avg = torch.zeros_like(p.grad), torch.zeros_like(p.grad)
        p.avg = self.beta1 * p.avg + (1 - self.beta1) * p.grad
        p.sqr_avg = self.beta2 * p.sqr_avg + (1 - self.beta2) * p.grad**2
        # The averages start at 0. Their weights so far sum to 1 - beta^(i + 1); dividing by this sum removes the bias.
        unbias_avg = p.avg / (1 - self.beta1 ** (self.i + 1))
        unbias_sqr_avg = p.sqr_avg / (1 - self.beta2 ** (self.i + 1))
        p -= self.lr * unbias_avg / (unbias_sqr_avg + self.eps).sqrt()


def first_step_of_adam(task):
    """In the first step, every weight changes by the learning rate, whatever the size of its gradient."""
    w = torch.zeros(3, requires_grad=True)
    w.grad = torch.tensor([100.0, -1.0, 0.1])
    Adam([w], lr=0.01).step()
    print(f"first step of Adam with lr 0.01 and gradients 100, -1, 0.1: {[round(v, 4) for v in w.tolist()]}")
    return w.tolist()


def adam(task):
    return train(task, Adam, lr=1e-2)


# ---- 6. Schedulers ---------------------------------------------------------------------------------------------------


def draw_schedulers(task):
    """Draw torch's schedulers. `schedules.plot` steps a copy, and accepts dashpot's schedules too."""
    print("torch's schedulers:", ", ".join(lr_scheduler.__all__))
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    print("hyperparameters of a group:", ", ".join(name for name in opt.param_groups[0] if name != "params"))
    save(schedules.plot(lr_scheduler.CosineAnnealingLR(opt, 100), 100), "cosine")
    save(schedules.plot(lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=100), 100), "one-cycle")


def cosine_schedule(task):
    """Lower the learning rate over the whole fit, and record the rate of every step."""
    recorder = Recorder(lr=lambda learner: learner.opt.param_groups[0]["lr"])
    schedule = Schedule(schedules.Cosine)  # called with the number of steps of the fit
    learner = train(task, torch.optim.Adam, lr=1e-2, callbacks=[schedule, recorder])
    draw_recorded(recorder, "cosine-recorded")
    return learner


def dead_units(task):
    """A reason for a warm-up: at the start, a high learning rate can kill ReLUs, whose gradients then stay zero.

    A dead unit is 0 for all images of the batch. The schedule 1cycle starts at 1/25 of its highest learning rate.
    """
    shares = {}
    for name, callbacks in {"constant": [], "1cycle": [one_cycle()]}.items():
        activations = Activations()
        optimizer = partial(torch.optim.SGD, momentum=0.9)
        learner = make_learner(task, optimizer, HIGH[task.name], without_norm(task, leak=0.0))
        learner.fit(1, callbacks=[activations, *callbacks], evaluate=False)
        save(activations.plot(), f"activations-{name}")
        shares[name] = [values["dead"][-1] for values in activations.values.values()]
        accuracy = learner.history[-1]["train"]["accuracy"]
        print(f"{name:9} dead units by layer: {[round(share, 2) for share in shares[name]]}, accuracy {accuracy:.3f}")
    return shares


def without_norm(task, leak):
    return nn.Sequential(*(m for m in network(task, leak) if not isinstance(m, tasks.DetachedBatchNorm2d)))


def one_cycle_three_epochs(task):
    return train_one_cycle(task, lr=1e-2, epochs=3)


def one_cycle_six_epochs(task):
    """A higher learning rate and more epochs give 90 %."""
    return train_one_cycle(task, lr=5e-2, epochs=6)


def train_one_cycle(task, lr, epochs):
    """Raise and then lower the learning rate; the momentum does the opposite."""
    recorder = Recorder("lr", "betas[0]")
    learner = train(task, torch.optim.AdamW, lr=lr, epochs=epochs, callbacks=[one_cycle(), recorder])
    draw_recorded(recorder, f"one-cycle-{epochs}-epochs-recorded")
    return learner


# ---- 7. Initialization -----------------------------------------------------------------------------------------------


def initialization_instead_of_normalization(task):
    """Without normalization, the initialization alone decides whether a signal reaches the last layers.

    With torch's default, the outputs shrink from layer to layer. With the initialization of section 1, they do not.
    """
    sizes = {}
    for name in ("default", "for the leak"):
        model = without_norm(task, leak=0.1)
        if name == "default":
            model.apply(lambda module: module.reset_parameters() if isinstance(module, nn.Conv2d) else None)
        activations = Activations()
        make_learner(task, torch.optim.Adam, 1e-2, model).fit(steps=1, callbacks=[activations], evaluate=False)
        sizes[name] = [values["std"][0] for values in activations.values.values()]
        print(f"initialization {name:12} standard deviation by layer: {[round(size, 2) for size in sizes[name]]}")
    return sizes


# ---- 8. The whole lesson ---------------------------------------------------------------------------------------------

# Parts in order. A part that trains a model to the end has the accuracy of the notebook after the last epoch.
PARTS = {
    "Momentum as a callback": (momentum_as_a_callback, 0.869),
    "Weight decay": (weight_decay_is_a_penalty, None),
    "Moving averages": (moving_averages, None),
    "Momentum": (momentum, 0.866),
    "Momentum smooths the path": (momentum_smooths_the_path, None),
    "The same method in dashpot": (momentum_of_dashpot, None),
    "Batch size": (batch_sizes, None),
    "RMSProp": (rmsprop, 0.822),
    "The first step of Adam": (first_step_of_adam, None),
    "Adam": (adam, 0.868),
    "Schedulers": (draw_schedulers, None),
    "Adam with a cosine schedule": (cosine_schedule, 0.877),
    "Dead units": (dead_units, None),
    "1cycle": (one_cycle_three_epochs, 0.884),
    "1cycle, 6 epochs": (one_cycle_six_epochs, 0.899),
    "Initialization": (initialization_instead_of_normalization, None),
}


def save(figure, name):
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / f"{name}.png", dpi=120)
    plt.close(figure)


def draw_recorded(recorder, name):
    values = recorder.values
    figure, axes = plt.subplots(len(values), figsize=(7, 2.2 * len(values)), sharex=True, layout="constrained")
    for ax, (label, line) in zip(axes, values.items(), strict=True):
        ax.plot(range(1, len(line) + 1), line)
        ax.set_ylabel(label)
    axes[-1].set_xlabel("step")
    save(figure, name)


def main(name="fashion-mnist"):
    try:
        task = tasks.get(name, validation_size=0)  # like the notebook, train on all training images
    except dp.DataError as error:
        print(f"{error} The lesson uses the digits instead.")
        task = tasks.get("digits", validation_size=0)
    results = {}
    for title, (part, _) in PARTS.items():
        print(f"\n{title}")
        results[title] = part(task)

    print(f"\naccuracy on {task.name:17}  here  notebook (Fashion-MNIST)")
    for title, (_, published) in PARTS.items():
        if published is not None:
            print(f"{title:29} {results[title].history[-1]['eval']['accuracy']:.3f}  {published:.3f}")
    return results


if __name__ == "__main__":
    results = main(*sys.argv[1:2])
