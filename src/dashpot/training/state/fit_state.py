"""State of a fit between two optimizer steps, for an exact resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from dashpot.errors import ArgumentError, RunError
from dashpot.optimizers.options import ResolvedOptions
from dashpot.tasks.running_means import RunningMeans
from dashpot.training.logged_values import LoggedValues, of_rank
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.training.state import group_settings, tensor_names, weights
from dashpot.training.state.fit_schema import check_state, damaged_state
from dashpot.training.state.group_settings import Kept, changed_in_groups, scheduled_by
from dashpot.training.state.loader_state import check_loader_state
from dashpot.training.state.undo import attributes_of, object_state, undone_on_error
from dashpot.utils.rng_state import random_state, set_random_state
from dashpot.utils.schema import Like, SchemaError, brief, require

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
        "settings": settings(learner),
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
        state: State returned by `take`. It is not modified.
        override: Whether to keep settings of the learner that differ from the saved settings.

    Raises:
        RunError: If a value has the wrong type or range, if the model, optimizer, data or callbacks do not match, or if
            the settings do not match and `override` is False. The message lists the differences. Nothing is changed.
    """
    check_state(state)
    _check_settings(learner, state, override)
    state = tensor_names.matched_state(learner.model, state)
    _check_parts(learner, state, override)
    with undone_on_error() as undo:
        for name, opt in named_optimizers(learner.opt).items():
            keep = _current_settings(learner, state, name) if override else Kept()
            saved = state["optimizer"]["by_name"][name] if name else state["optimizer"]
            undo.append(weights.load_optimizer(learner.model, opt, saved, keep=keep))
        # Recipes are compared after loading, when the flags in the groups have their saved values.
        saved, current = state["settings"]["recipe"], _of_each(named_optimizers(learner.opt), _recipe)
        if _differs(saved, current) and not override:
            raise RunError(_settings_error([f"recipe: saved {saved}, current {current}"]))
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
        weights.load_model(learner.model, state["model"])
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


def progress(state: Any) -> Mapping[str, Any]:
    """Return the saved progress of a fit.

    Raises:
        RunError: If `state` is not the state of a fit.
    """
    check_state(state)
    return state["progress"]


def settings(learner: Learner) -> dict[str, Any]:
    """Return the settings of a fit that are compared on resume but not part of the state, as strings and numbers."""
    opts = named_optimizers(learner.opt)
    sizes = {
        "batches": learner.train.size,
        "batch size": learner.train.batch_size,
        "number of examples": learner.train.all_examples,
    }
    return {
        "optimizer": _of_each(opts, _title),
        "schedule": _of_each(opts, lambda opt: repr(getattr(opt, "schedule", None) or None)),
        "options": _of_each(opts, _options),
        "precision": learner.engine.precision,
        **{name: size for name, size in sizes.items() if size is not None},
        **learner.loop.plan.settings(),
        "data": _source(learner.train.source),
        "accumulate": learner.loop.accumulate,
        "metrics": ", ".join(learner.metrics),
        "defaults": learner._defaults,
        "groups": dict(zip(_group_names(learner.model, opts), learner._initial_groups, strict=True)),
        "recipe": _of_each(opts, _recipe),
        "callbacks": {name: callback.settings() for name, callback in learner.loop.callbacks.by_name().items()},
    }


def defaults(opt: Any) -> dict[str, str]:
    """Return the default settings of the optimizers as strings, which later in-place changes do not affect.

    With several optimizers, the keys are `NAME.SETTING`.
    """
    return {
        _qualified(name, key): repr(value)
        for name, optimizer in named_optimizers(opt).items()
        for key, value in optimizer.defaults.items()
    }


def initial_groups(opt: Any) -> list[dict[str, str]]:
    """Return the settings of the groups of all optimizers; see `group_settings.initial_groups`."""
    return [group for optimizer in named_optimizers(opt).values() for group in group_settings.initial_groups(optimizer)]


def _qualified(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _of_each(opts: Mapping[str, Any], describe: Callable[[Any], str]) -> str:
    """Return the description of a single optimizer, or those of several optimizers with their names."""
    return "; ".join(f"{name}: {describe(opt)}" if name else describe(opt) for name, opt in opts.items())


def _options(opt: Any) -> str:
    options = getattr(opt, "options", None)
    return options.text() if isinstance(options, ResolvedOptions) else ""


def _group_names(model: nn.Module, opts: Mapping[str, Any]) -> list[str]:
    return [name for opt in opts.values() for name in weights.group_names(model, opt)]


def _optimizer_state(learner: Learner) -> dict[str, Any]:
    states = {name: weights.optimizer_state(learner.model, opt) for name, opt in named_optimizers(learner.opt).items()}
    return {"by_name": states} if learner.loop.optimizers else states[""]


def _frozen_by_callbacks(learner: Learner) -> set[int]:
    """Return the ids of parameters that callbacks such as `Freeze` have frozen, and freeze again in a resumed fit."""
    return {id(p) for callback in learner.loop.callbacks for p in getattr(callback, "frozen", ())}


def _source(source: Any) -> str:
    """Return the class of a data source with its seed, flags and sampler."""
    values = {name: getattr(source, name, None) for name in ("shuffle", "seed", "augment_from", "drop_last")}
    shown = [f"{name}={value}" for name, value in values.items() if isinstance(value, (bool, int))]
    sampler = getattr(source, "sampler", None)
    shown += [] if sampler is None else [type(sampler).__name__]
    return f"{type(source).__name__}({', '.join(shown)})"


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


def _check_settings(learner: Learner, state: Mapping[str, Any], override: bool) -> None:
    """Check the saved progress and settings, before anything is changed."""
    progress, saved, current = state["progress"], state["settings"], settings(learner)
    learner.loop.plan.check_progress(progress)
    own = _differences(_comparable(saved), _comparable(current))
    differences = own + _differences(saved["defaults"], current["defaults"]) + _group_differences(saved, current)
    fixed = learner.loop.plan.fixed_settings(progress)
    if found := [text for name, text in differences if name in fixed]:
        raise RunError(f"Settings that must not change within an epoch differ: {'; '.join(found)}.")
    found = [text for _, text in differences] + _callback_differences(learner, state, current["callbacks"])
    if found and not override:
        raise RunError(_settings_error(found))


def _group_differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, description) for each setting of a group that differs; earlier checkpoints have no groups."""
    found = []
    for group, names in changed_in_groups(saved.get("groups", current["groups"]), current["groups"]).items():
        for name in sorted(names):
            values = [
                side.get("groups", {}).get(group, {}).get(name, side["defaults"].get(name)) for side in (saved, current)
            ]
            if _differs(*values):
                text = f"{name} of the group of {group}: saved {_shown(values[0])}, current {_shown(values[1])}"
                found.append((name, text))
    return found


def _current_settings(learner: Learner, state: Mapping[str, Any], name: str) -> Kept:
    """Return the settings of groups of the optimizer `name` that an overriding fit keeps.

    These are the settings that differ from those of the checkpoint, and the hyperparameters that the schedules of the
    checkpoint have changed. A schedule that the fit shares with the checkpoint restores its hyperparameters afterwards.
    """
    saved, current = state["settings"], settings(learner)
    own, opt = _qualified(name, ""), named_optimizers(learner.opt)[name]
    groups = changed_in_groups(saved.get("groups", current["groups"]), current["groups"])
    callbacks = {key: item for key, item in state["callbacks"].items() if not name or f"[{name}]" in key}
    return Kept(
        [
            key.removeprefix(own)
            for key, _ in _differences(saved["defaults"], current["defaults"])
            if key.startswith(own)
        ],
        [groups[group] for group in weights.group_names(learner.model, opt)],
        scheduled_by(callbacks),
    )


def _callback_differences(learner: Learner, state: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Return the differences between callbacks with settings or state, excluding observers."""
    saved, callbacks = state["settings"]["callbacks"], learner.loop.callbacks.by_name()
    observers = {*state["observers"], *(name for name, callback in callbacks.items() if not callback.essential)}
    theirs = {name for name, kept in state["callbacks"].items() if kept or saved.get(name)} - observers
    ours = {name for name, c in callbacks.items() if c.essential and (current[name] or c.state_dict())} - observers
    found = [f"callback {name} is only in the checkpoint" for name in sorted(theirs - callbacks.keys())]
    found += [f"callback {name} is only in this fit" for name in sorted(ours - state["callbacks"].keys())]
    for name in sorted(theirs & ours):
        found += [f"{name}: {text}" for _, text in _differences(saved.get(name, {}), current[name])]
    return found


def _settings_error(found: Sequence[str]) -> str:
    return (
        f"The settings of the checkpoint and of this fit differ: {'; '.join(found)}; pass override=True to use the "
        "current ones."
    )


def _differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (name, description) for each setting that is in both mappings and differs."""
    return [
        (name, f"{name}: saved {_shown(saved[name])}, current {_shown(current[name])}")
        for name in saved
        if name in current and _differs(saved[name], current[name])
    ]


def _differs(saved: Any, current: Any) -> bool:
    """Return whether two settings differ; settings whose text contains a memory address are considered equal."""
    return saved != current and " at 0x" not in f"{saved} {current}"


def _shown(value: Any) -> str:
    return value or "none" if isinstance(value, str) else brief(value)


def _comparable(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("defaults", "groups", "recipe", "callbacks")}


def _title(optimizer: Optimizer) -> str:
    """Return the class name of the optimizer, qualified by `torch` or `dashpot`, which share some class names."""
    kind = type(getattr(optimizer, "wrapped", optimizer))
    origin = kind.__module__.partition(".")[0]
    return f"{origin}.{kind.__name__}" if origin in ("torch", "dashpot") else kind.__name__


def _recipe(optimizer: Optimizer) -> str:
    """Return the stages of a dashpot optimizer without the numbers stored in its groups; "" if it has no recipe."""
    try:
        recipe = getattr(optimizer, "recipe", None)
    except ArgumentError:  # a schedule that recipes cannot represent
        recipe = None
    return "" if recipe is None else ", ".join(_stage(**stage.to_dict()) for stage in recipe.stages)


def _stage(stage: str, **settings: Any) -> str:
    kept = {name: value for name, value in settings.items() if isinstance(value, (bool, str))}
    return f"{stage}({', '.join(f'{name}={value}' for name, value in kept.items())})"


def _state_of(loader: Any) -> dict[str, Any] | None:
    return None if loader is None else loader.state_dict()
