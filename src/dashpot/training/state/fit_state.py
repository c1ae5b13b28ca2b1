"""State of a fit between two optimizer steps, for an exact resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dashpot.errors import RunError
from dashpot.tasks.running_means import RunningMeans
from dashpot.training.logged_values import LoggedValues, of_rank
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.training.state import fit_settings, tensor_names, weights
from dashpot.training.state.fit_schema import damaged_state
from dashpot.training.state.group_settings import Kept
from dashpot.training.state.loader_state import check_loader_state
from dashpot.training.state.undo import attributes_of, object_state, undone_on_error
from dashpot.utils.rng_state import random_state, set_random_state
from dashpot.utils.schema import Like, SchemaError, require

if TYPE_CHECKING:
    from dashpot.training.learner import Learner
    from dashpot.training.loader import ResumableLoader


def take(learner: Learner) -> dict[str, Any]:
    """Return the state of the fit, as plain data and CPU tensors, with sharded tensors gathered.

    Raises:
        RunError: If called during an evaluation, before all callbacks have been notified of the end of an epoch, or
            while the model contains weights other than the optimizer's.
    """
    _check_moment(learner)
    engine, callbacks = learner.engine, learner.loop.callbacks.by_name()
    interval = learner.loop.plan.state_dict(learner.loop.position)
    return {
        "model": weights.model_state(learner.model),
        "besides": weights.extra_state(learner.model, _frozen_by_callbacks(learner)),
        "optimizer": _optimizer_state(learner),
        "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
        "random": engine.all_gather(random_state()),
        "data": {"train": learner.train.checked_state_dict(), "evaluation": _state_of(learner.evaluation)},
        "settings": fit_settings.settings(learner),
        "progress": {
            "position": list(learner.loop.position),
            "steps": learner.steps,
            "epochs": learner.epochs,
            "history": [{phase: dict(means) for phase, means in epoch.items()} for epoch in learner.history],
            "means": engine.all_gather(learner.loop.means.state_dict()) if learner.loop.position[1] else None,
            "logged": engine.all_gather(learner.loop.logged.state_dict()) if learner.loop.position[1] else None,
            **({} if interval is None else {"interval": interval}),
        },
        "callbacks": {name: weights.cpu_copy(callback.state_dict()) for name, callback in callbacks.items()},
        "observers": [name for name, callback in callbacks.items() if not callback.essential],
    }


def restore(learner: Learner, state: Mapping[str, Any], override: bool = False) -> None:
    """Load `state` into `learner`, at the start of a fit.

    Args:
        learner: Learner with the same model, data and callbacks as the learner whose state was saved.
        state: State returned by `take`, after `check_state`. It is not modified.
        override: Whether to keep settings of the learner that differ from the saved settings.

    Raises:
        RunError: If the model, optimizer, data or callbacks do not match, or if the settings do not match and
            `override` is False. The message lists the differences. Nothing is changed.
    """
    fit_settings.check_settings(learner, state, override)
    state = tensor_names.matched_state(learner.model, state)
    _check_parts(learner, state, override)
    with undone_on_error() as undo:
        for name, opt in named_optimizers(learner.opt).items():
            keep = fit_settings.kept_settings(learner, state, name) if override else Kept()
            saved = state["optimizer"]["by_name"][name] if name else state["optimizer"]
            undo.append(weights.load_optimizer(learner.model, opt, saved, keep=keep))
        # Recipes are compared after loading, when the flags in the groups have their saved values.
        if not override:
            fit_settings.check_recipes(learner, state)
        undo.append(attributes_of(learner, "history", "steps", "stop_reason"))
        undo.append(attributes_of(learner.loop))
        _restore_progress(learner, state["progress"])
        for name, callback in learner.loop.callbacks.by_name().items():
            if name in state["callbacks"]:
                undo.append(object_state(callback))
                callback.load_state_dict(weights.cpu_copy(state["callbacks"][name]))
        for phase, loader in _loaders(learner):
            if (saved_loader := state["data"][phase]) is not None:
                undo.append(loader.snapshot())
                loader.load_state_dict(saved_loader)
                if not override:
                    loader.replay_check.expect(saved_loader)
        undo.append(weights.model_snapshot(learner.model, state["model"]))
        weights.load_model_state(learner.model, state["model"])
        weights.load_extra_state(learner.model, state["besides"])
        if learner.engine.scaler is not None and state["scaler"]:
            learner.engine.scaler.load_state_dict(state["scaler"])
        restore_random(learner, state["random"])


def restore_random(learner: Learner, states: Sequence[Mapping[str, Any]]) -> None:
    """Restore the RNG states of this rank.

    After a resume with more processes, a rank without a saved state keeps its current state. The order of a shuffled
    loader is drawn on rank 0, so the order does not depend on the number of processes.
    """
    if learner.engine.global_rank < len(states):
        set_random_state(states[learner.engine.global_rank])


def _optimizer_state(learner: Learner) -> dict[str, Any]:
    states = {name: weights.optimizer_state(learner.model, opt) for name, opt in named_optimizers(learner.opt).items()}
    return {"by_name": states} if learner.loop.optimizers else states[""]


def _frozen_by_callbacks(learner: Learner) -> set[int]:
    """Return the ids of parameters that callbacks such as `Freeze` have frozen, and freeze again in a resumed fit."""
    return {id(p) for callback in learner.loop.callbacks for p in getattr(callback, "frozen", ())}


def _restore_progress(learner: Learner, progress: Mapping[str, Any]) -> None:
    engine, loop = learner.engine, learner.loop
    loop.position, learner.steps = tuple(progress["position"]), progress["steps"]
    learner.history = [{phase: dict(means) for phase, means in epoch.items()} for epoch in progress["history"]]
    loop.means, loop.logged = RunningMeans(learner.metrics), LoggedValues()
    if progress["means"] is None:
        return
    loop.logged.load_state_dict(of_rank(progress.get("logged") or [], engine.global_rank, engine.world_size))
    if len(progress["means"]) == engine.world_size:
        loop.means.load_state_dict(progress["means"][engine.global_rank])
    elif any("objects" in row for row in progress["means"]):
        raise RunError(
            f"With metric objects, a fit saved within an epoch by {len(progress['means'])} processes must be resumed "
            f"with the same number, got {engine.world_size}."
        )
    elif engine.is_rank_zero:  # adds the sums of all ranks on one rank only
        loop.means.load_state_dict(RunningMeans.merged(progress["means"]))


def _check_moment(learner: Learner) -> None:
    """Check that the model contains the optimizer's weights, and that no phase or event is incomplete."""
    loop = learner.loop
    for callback in loop.callbacks:
        if callback.in_model is not None:
            raise RunError(
                f"{type(callback).__name__} has put {callback.in_model} into the model, so no checkpoint can be taken; "
                "take it earlier, as Checkpoints does, or end the fit with the optimizer's weights."
            )
    epoch, batch = loop.position
    at_end = loop.event in ("after_epoch", "cleanup_epoch") and loop.unwinding is None
    if batch and (loop.phase == "eval" or (at_end and loop.phases["eval"])):
        got = "the evaluation" if loop.phase == "eval" else "the end of the training phase"
        raise RunError(
            f"The state of a fit must be taken during training or after an epoch, got {got} of epoch {epoch + 1}."
        )
    if loop.event == "after_epoch":
        for callback in loop.callbacks.pending("after_epoch"):
            if callback.essential and callback.state_dict():
                raise RunError(
                    f"{type(callback).__name__} has not been notified of the end of the epoch; take the state of a fit "
                    "in cleanup_epoch, or in a callback of a higher order."
                )


def _check_parts(learner: Learner, state: Mapping[str, Any], override: bool) -> None:
    """Check the parts of a state against the parts of the learner, before anything is changed."""
    weights.check_model(learner.model, state["model"])
    weights.check_extra_state(learner.model, state["besides"])
    try:
        _check_optimizer_names(learner, state["optimizer"])
        _check_means(learner, state["progress"]["means"])
        _check_scaler(learner, state)
        for phase, loader in _loaders(learner):
            if state["data"][phase] is not None:
                check_loader_state(loader.source, state["data"][phase], f"data.{phase}", override)
        for name, callback in learner.loop.callbacks.by_name().items():
            if name in state["callbacks"]:
                callback.check_state(state["callbacks"][name], f"callbacks.{name}")
        _check_epoch_start(learner, state)
        learner.loop.plan.check_position(state["progress"])
    except SchemaError as error:
        raise damaged_state(error) from error


def _check_optimizer_names(learner: Learner, saved: Mapping[str, Any]) -> None:
    own, theirs = ({*names} - {""} for names in (named_optimizers(learner.opt), saved.get("by_name", ())))
    if own != theirs:
        names = [", ".join(sorted(side)) or "one optimizer" for side in (own, theirs)]
        raise SchemaError(f"optimizer must have the state of {names[0]}, got that of {names[1]}")


def _check_epoch_start(learner: Learner, state: Mapping[str, Any]) -> None:
    """Check that the state at the start of the epoch is known within an epoch; streams do not need it."""
    progress = state["progress"]
    batch = progress["position"][1] if progress.get("interval") is None else progress["interval"]["pass"][1]
    if batch and not learner.train.is_stream and None in state["data"]["train"]["begun"]:
        raise SchemaError("data.train.begun must contain the state at the start of the epoch, got None")


def _check_means(learner: Learner, saved: Sequence[Mapping[str, Any]] | None) -> None:
    """Check that the running means have one sum for the loss and for each metric."""
    for index, row in enumerate(saved or ()):
        expected = len(RunningMeans(learner.metrics).sums)
        for name in ("sums", "counts"):
            if name in row and len(row[name]) != expected:
                got = len(row[name])
                raise SchemaError(f"progress.means[{index}].{name} must have {expected} items, got {got}")


def _check_scaler(learner: Learner, state: Mapping[str, Any]) -> None:
    scaler, saved = learner.engine.scaler, state["scaler"]
    if (scaler is None) != (saved is None) and state["settings"]["precision"] == learner.engine.precision:
        raise SchemaError(f"scaler must be {'None' if scaler is None else 'a dict'} with this precision")
    if scaler is not None and saved is not None:
        require(Like(scaler.state_dict()), saved, "scaler")


def _loaders(learner: Learner) -> list[tuple[str, ResumableLoader]]:
    pairs = (("train", learner.train), ("evaluation", learner.evaluation))
    return [(phase, loader) for phase, loader in pairs if loader is not None]


def _state_of(loader: Any) -> dict[str, Any] | None:
    return None if loader is None else loader.state_dict()
