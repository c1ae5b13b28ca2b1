"""Settings of a fit that are compared on a resume, and the settings that a resumed fit keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from dashpot.errors import ArgumentError, RunError
from dashpot.optimizers.options import ResolvedOptions
from dashpot.training.optimizer_dict import named_optimizers
from dashpot.training.state import group_settings, weights
from dashpot.training.state.group_settings import Kept, changed_in_groups, scheduled_by
from dashpot.utils.schema import brief

if TYPE_CHECKING:
    from dashpot.training.learner import Learner


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


def check_settings(learner: Learner, state: Mapping[str, Any], override: bool) -> None:
    """Check the saved progress and settings, before anything is changed.

    Raises:
        RunError: If the settings differ and `override` is False, or if settings that must not change within an epoch
            differ.
    """
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


def kept_settings(learner: Learner, state: Mapping[str, Any], name: str) -> Kept:
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


def check_recipes(learner: Learner, state: Mapping[str, Any]) -> None:
    """Check that the recipes of the optimizers are those of the checkpoint.

    Raises:
        RunError: If they differ.
    """
    saved, current = state["settings"]["recipe"], _of_each(named_optimizers(learner.opt), _recipe)
    if _differs(saved, current):
        raise RunError(_settings_error([f"recipe: saved {saved}, current {current}"]))


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


def _source(source: Any) -> str:
    """Return the class of a data source with its seed, flags and sampler."""
    values = {name: getattr(source, name, None) for name in ("shuffle", "seed", "augment_from", "drop_last")}
    shown = [f"{name}={value}" for name, value in values.items() if isinstance(value, (bool, int))]
    sampler = getattr(source, "sampler", None)
    shown += [] if sampler is None else [type(sampler).__name__]
    return f"{type(source).__name__}({', '.join(shown)})"


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
