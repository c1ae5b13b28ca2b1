"""The whole state of a fit between two batches: taken, and put back so that the rest comes out the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dashpot.errors import RunError
from dashpot.training import weights
from dashpot.training.means import Means
from dashpot.training.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["restore", "take"]


def take(learner: Learner) -> dict[str, Any]:
    """The state of `learner`: plain data and tensors on the CPU, in whole tensors whatever the number of processes."""
    engine = learner.engine
    return {
        "model": weights.model_state(learner.model),
        "optimizer": weights.optimizer_state(learner.model, learner.opt),
        "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
        "random": engine.gather(random_state()),
        "data": learner.train.state_dict(),
        "progress": {
            "position": list(learner.position),
            "steps": learner.steps,
            "epochs": learner.epochs,
            "batches": len(learner.train),
            "accumulate": learner.accumulate,
            "history": [{phase: dict(means) for phase, means in epoch.items()} for epoch in learner.history],
            "means": learner.means.state_dict(engine.total) if learner.position[1] else None,
        },
        "callbacks": {name: callback.state_dict() for name, callback in learner.told.named().items()},
    }


def restore(learner: Learner, state: Mapping[str, Any]) -> None:
    """Put `state` back into `learner`, whose fit has just begun.

    Raises:
        RunError: it is of another model, optimizer, data or list of callbacks.
    """
    engine, progress = learner.engine, state["progress"]
    _check(learner, state)
    weights.load_model(learner.model, state["model"])
    weights.load_optimizer(learner.model, learner.opt, state["optimizer"])
    if engine.scaler is not None and state["scaler"]:
        engine.scaler.load_state_dict(state["scaler"])
    learner.position = tuple(progress["position"])
    learner.steps, learner.history = progress["steps"], progress["history"]
    learner.means = Means(learner.metrics)
    if progress["means"] is not None and engine.first:  # the sums of all processes, which count once
        learner.means.load_state_dict(progress["means"])
    learner.train.load_state_dict(state["data"])
    for name, callback in learner.told.named().items():
        callback.load_state_dict(state["callbacks"][name])
    if len(state["random"]) == engine.world:
        set_random_state(state["random"][engine.rank])


def _check(learner: Learner, state: Mapping[str, Any]) -> None:
    """Refuse a state that this fit cannot go on from, before anything is changed."""
    progress, found = state["progress"], []
    for name, own in (("batches", len(learner.train)), ("accumulate", learner.accumulate)):
        if progress[name] != own:
            found.append(f"{name} is {progress[name]} there and {own} here")
    there, here = set(state["callbacks"]), set(learner.told.named())
    found += [f"the callback {name} is only there" for name in sorted(there - here)]
    found += [f"the callback {name} is only here" for name in sorted(here - there)]
    if progress["position"][0] > learner.epochs:
        found.append(f"{progress['position'][0]} epochs are done there, {learner.epochs} are wanted here")
    if found:
        raise RunError(f"The checkpoint is of another fit: {'; '.join(found)}.")
