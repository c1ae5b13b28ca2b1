"""The whole state of a fit between two steps: taken, and put back so that the rest comes out the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from dashpot.errors import ArgumentError, RunError
from dashpot.optimizers.options import ResolvedOptions
from dashpot.tasks.means import Means
from dashpot.training.state import weights
from dashpot.utils.rng_state import random_state, set_random_state

if TYPE_CHECKING:
    from dashpot.training.learner import Learner

__all__ = ["defaults", "restore", "restore_random", "take"]

WITHIN = ("batches", "batch size", "number of examples", "data", "accumulate", "metrics")
"""Settings that the rest of an epoch has to share with its beginning."""


def take(learner: Learner) -> dict[str, Any]:
    """The state of `learner`: plain data and tensors on the CPU, in whole tensors whatever the number of processes.

    Raises:
        RunError: an evaluation is under way.
    """
    _check_moment(learner)
    engine = learner.engine
    return {
        "model": weights.model_state(learner.model),
        "besides": weights.besides(learner.model),
        "optimizer": weights.optimizer_state(learner.model, learner.opt),
        "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
        "random": engine.all_gather(random_state()),
        "data": {"train": learner.train.state_dict(), "evaluation": _state_of(learner.evaluation)},
        "settings": settings(learner),
        "progress": {
            "position": list(learner.loop.position),
            "steps": learner.steps,
            "epochs": learner.epochs,
            "history": [{phase: dict(means) for phase, means in epoch.items()} for epoch in learner.history],
            "means": engine.all_gather(learner.loop.means.state_dict()) if learner.loop.position[1] else None,
        },
        "callbacks": {
            name: weights.copied(callback.state_dict()) for name, callback in learner.loop.callbacks.by_name().items()
        },
        "observers": [name for name, callback in learner.loop.callbacks.by_name().items() if not callback.essential],
    }


def restore(learner: Learner, state: Mapping[str, Any], override: bool = False) -> None:
    """Put `state` back into `learner`, whose fit has just begun.

    Args:
        learner: of the same model, data and callbacks.
        state: what `take` gave; it is not changed.
        override: go on with the settings of here where they differ.

    Raises:
        RunError: it is of another model, optimizer, data or list of callbacks, or of other settings without `override`;
            each difference is listed, and weights and optimizer stay as they were.
    """
    _check_kind(state)
    _check(learner, state, override)
    weights.check_model(learner.model, state["model"])
    unlike = [name for name, *_ in _differences(state["settings"]["defaults"], settings(learner)["defaults"])]
    undo = weights.load_optimizer(learner.model, learner.opt, state["optimizer"], keep=unlike if override else ())
    # Switches that the groups hold are those of there by now, so that what differs would stay so.
    there, here = state["settings"]["recipe"], _recipe(learner.opt)
    if _differs(there, here) and not override:
        undo()
        raise RunError(_refusal([f"the optimizer's recipe is {there} there and {here} here"]))
    try:
        _restore_progress(learner, state["progress"])
        for name, callback in learner.loop.callbacks.by_name().items():
            if name in state["callbacks"]:
                callback.load_state_dict(weights.copied(state["callbacks"][name]))
    except BaseException:  # a callback may refuse its state; the model is still as it was
        undo()
        raise
    weights.load_model(learner.model, state["model"])
    weights.load_besides(learner.model, state["besides"])
    if learner.engine.scaler is not None and state["scaler"]:
        learner.engine.scaler.load_state_dict(state["scaler"])
    learner.train.load_state_dict(state["data"]["train"])
    if learner.evaluation is not None and state["data"]["evaluation"] is not None:
        learner.evaluation.load_state_dict(state["data"]["evaluation"])
    restore_random(learner, state["random"])


def restore_random(learner: Learner, states: Sequence[Mapping[str, Any]]) -> None:
    """Put the generators of every process back; a process that there was not has none, and goes on with its own. The
    first process's draw the order of a shuffled loader, for any number of processes."""
    if learner.engine.global_rank < len(states):
        set_random_state(states[learner.engine.global_rank])


def settings(learner: Learner) -> dict[str, Any]:
    """What a fit was told and its state does not carry: texts and numbers to compare."""
    opt = learner.opt
    options = getattr(opt, "options", None)
    return {
        "optimizer": _title(opt),
        "schedule": repr(getattr(opt, "schedule", None) or None),
        "options": options.text() if isinstance(options, ResolvedOptions) else "",
        "precision": learner.engine.precision,
        "batches": len(learner.train),
        **{name: size for name, size in _sizes(learner).items() if size is not None},
        "data": _source(learner.train.source),
        "accumulate": learner.loop.accumulate,
        "metrics": ", ".join(learner.metrics),
        "defaults": learner._defaults,
        "recipe": _recipe(opt),
        "callbacks": {name: callback.settings() for name, callback in learner.loop.callbacks.by_name().items()},
    }


def defaults(optimizer: Optimizer) -> dict[str, str]:
    """The settings that an optimizer was made with, as texts; taken before a tensor among them is changed in place."""
    return {name: repr(value) for name, value in optimizer.defaults.items()}


def _sizes(learner: Learner) -> dict[str, int | None]:
    """What tells the data of one fit from those of another with as many batches."""
    return {"batch size": learner.train.batch_size, "number of examples": learner.train.all_examples}


def _source(source: Any) -> str:
    """What gives the batches and in which order, as far as it tells: its class, and its seed, its sampler."""
    told = {name: getattr(source, name, None) for name in ("shuffle", "seed", "augment_from", "drop_last")}
    named = [f"{name}={value}" for name, value in told.items() if isinstance(value, (bool, int))]
    sampler = getattr(source, "sampler", None)
    named += [] if sampler is None else [type(sampler).__name__]
    return f"{type(source).__name__}({', '.join(named)})"


def _restore_progress(learner: Learner, progress: Mapping[str, Any]) -> None:
    engine = learner.engine
    learner.loop.position, learner.steps = tuple(progress["position"]), progress["steps"]
    learner.history = [{phase: dict(means) for phase, means in epoch.items()} for epoch in progress["history"]]
    learner.loop.means = Means(learner.metrics)
    if progress["means"] is None:
        return
    if len(progress["means"]) == engine.world_size:
        learner.loop.means.load_state_dict(progress["means"][engine.global_rank])
    elif engine.is_rank_zero:  # the sums of all processes, which count once
        rows = progress["means"]
        total = [sum(column) for column in zip(*(row["sums"] for row in rows), strict=True)]
        learner.loop.means.load_state_dict({"count": sum(row["count"] for row in rows), "sums": total})


def _check_moment(learner: Learner) -> None:
    """Refuse a moment at which the model holds other weights than the optimizer's, or not all callbacks are told."""
    for callback in learner.loop.callbacks:
        if callback.in_model is not None:
            raise RunError(
                f"{type(callback).__name__} has put {callback.in_model} into the model, so that there is no state to "
                "go on from; take it earlier, as Checkpoints does, or have the fit end with the optimizer's weights."
            )
    epoch, batch = learner.loop.position
    if batch and learner.loop.phase == "eval":
        raise RunError(
            f"A fit's state is taken while it trains or after an epoch, not while epoch {epoch + 1} is evaluated."
        )
    ends = learner.loop.event in ("after_epoch", "cleanup_epoch") and learner.loop.unwinding is None
    if ends and batch and learner.loop.phases["eval"]:
        raise RunError("A fit's state is not taken between the two phases of an epoch; take it after the evaluation.")
    if learner.loop.event == "after_epoch":
        for callback in learner.loop.callbacks.pending("after_epoch"):
            if callback.essential and callback.state_dict():
                raise RunError(
                    f"{type(callback).__name__} is not told the end of the epoch yet; take a fit's state in "
                    "cleanup_epoch, or in a callback of a higher order."
                )


def _check_kind(state: Any) -> None:
    """Refuse what is no state of a fit, such as a path or the weights of a model."""
    if not isinstance(state, Mapping) or not state.keys() >= {"model", "optimizer", "settings", "progress", "random"}:
        got = "other keys" if isinstance(state, Mapping) else type(state).__name__
        raise RunError(
            "resume must be what learner.state_dict() gave during a fit, or what read_newest(folder) reads of "
            f"checkpoints, got {got}."
        )


def _check(learner: Learner, state: Mapping[str, Any], override: bool) -> None:
    """Refuse a state that this fit cannot go on from, before anything is changed."""
    progress, there, here = state["progress"], state["settings"], settings(learner)
    epoch, batch = progress["position"]
    if epoch + bool(batch) > learner.epochs:
        within = f" and {batch} batches of the next" if batch else ""
        raise RunError(
            f"The checkpoint is of {epoch} finished epochs{within}, more than the {learner.epochs} wanted here."
        )
    unlike = _differences(_without(there), _without(here)) + _differences(there["defaults"], here["defaults"])
    within = [text for name, text in unlike if batch and name in WITHIN]
    if within:  # the rest of an epoch has to be that of its beginning
        raise RunError(f"The checkpoint is from within an epoch of another fit: {'; '.join(within)}.")
    found = [text for _, text in unlike] + _other_callbacks(learner, state, here["callbacks"])
    if found and not override:
        raise RunError(_refusal(found))


def _other_callbacks(learner: Learner, state: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """How the callbacks differ that have settings or a state; those that only look on may come and go."""
    there, named = state["settings"]["callbacks"], learner.loop.callbacks.by_name()
    aside = {*state["observers"], *(name for name, callback in named.items() if not callback.essential)}
    theirs = {name for name, kept in state["callbacks"].items() if kept or there.get(name)} - aside
    ours = {name for name, c in named.items() if c.essential and (here[name] or c.state_dict())} - aside
    found = [f"the callback {name} is only there" for name in sorted(theirs - named.keys())]
    found += [f"the callback {name} is only here" for name in sorted(ours - state["callbacks"].keys())]
    for name in sorted(theirs & ours):
        found += [f"{name}: {text}" for _, text in _differences(there.get(name, {}), here[name])]
    return found


def _refusal(found: Sequence[str]) -> str:
    return f"The checkpoint is of a fit with other settings: {'; '.join(found)}; override=True goes on with those here."


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, sentence) of what differs; a setting that one side does not know is no difference."""
    return [
        (name, f"{name} is {_shown(there[name])} there and {_shown(here[name])} here")
        for name in there
        if name in here and _differs(there[name], here[name])
    ]


def _differs(there: Any, here: Any) -> bool:
    """Whether two settings differ; a text with an address in it is another one in every process."""
    return there != here and " at 0x" not in f"{there} {here}"


def _shown(value: Any) -> str:
    return str(value) or "none"


def _without(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("defaults", "recipe", "callbacks")}


def _title(optimizer: Optimizer) -> str:
    """The optimizer's class; torch's and ours share names."""
    kind = type(optimizer)
    origin = kind.__module__.partition(".")[0]
    return f"{origin}.{kind.__name__}" if origin in ("torch", "dashpot") else kind.__name__


def _recipe(optimizer: Optimizer) -> str:
    """The stages of a dashpot optimizer without their numbers, which are in its groups; empty where there are none."""
    try:
        recipe = getattr(optimizer, "recipe", None)
    except ArgumentError:  # a schedule that no recipe can carry
        recipe = None
    return "" if recipe is None else ", ".join(_stage(**stage.to_dict()) for stage in recipe.stages)


def _stage(stage: str, **settings: Any) -> str:
    kept = {name: value for name, value in settings.items() if isinstance(value, (bool, str))}
    return f"{stage}({', '.join(f'{name}={value}' for name, value in kept.items())})"


def _state_of(loader: Any) -> dict[str, Any] | None:
    return None if loader is None else loader.state_dict()
