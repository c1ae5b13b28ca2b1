"""Studies given by names and numbers, from which a worker process rebuilds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashpot import tasks
from dashpot.constraints import unknown
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.default_lr import DEFAULT_METHODS
from dashpot.runs.entries import entry
from dashpot.runs.entry import Entry
from dashpot.runs.method_specs import MethodSpec, parse_methods
from dashpot.runs.study import Study
from dashpot.runs.tuning_options import Rate
from dashpot.scheduling.dimension import Dimension
from dashpot.tasks import Target


@dataclass(frozen=True)
class StudyNames:
    """Settings of a study as plain data.

    Attributes:
        task: Name of a task, or `path/to/file.py:function`.
        task_options: Options of the task.
        data_dir: First folder to search for data sets.
        methods: Comma-separated methods with optional settings, as for `dashpot compare`; None for the standard list.
        rates: Learning rates by method or by name of an entry: numbers, or pairs of the lowest and the highest rate of
            the search. The default trial has the geometric mean of a pair.
        options: Optimizer arguments of all methods.
        schedule: Schedule of all methods.
        seeds: Number of seeds, which are 0, 1, ...
        epochs: Number of epochs; None for that of the task.
        no_decay: Parameters without weight decay, as kinds and patterns of names for `dashpot.param_groups`.
        target: Value of the target on the validation data instead of that of the task; None keeps the task's.
        design: Further arguments of `Study` by name, such as the budget. `spaces` are mappings of dimensions to the
            arguments of `Dimension`.
    """

    task: str
    task_options: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    methods: str | None = None
    rates: Mapping[str, Rate] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | None = None
    seeds: int = 3
    epochs: int | None = None
    no_decay: tuple[str, ...] = ()
    target: float | None = None
    design: Mapping[str, Any] = field(default_factory=dict)

    def study(self) -> Study:
        """Load the task and return the study.

        Raises:
            ArgumentError: If a name is unknown or a value is out of range.
            DataError: If the data set is not available.
        """
        data_dir = None if self.data_dir is None else Path(self.data_dir)
        task = _with_target(tasks.get(self.task, data_dir=data_dir, **self.task_options), self.target)
        specs = tuple(map(MethodSpec, DEFAULT_METHODS)) if self.methods is None else parse_methods(self.methods)
        known = {name for spec in specs for name in (spec.method, spec.name)}
        for method in self.rates:
            if method not in known:
                raise unknown("method in --lr", method, known)
        _check_names(specs)
        entries = tuple(self._entry(spec, task.name) for spec in specs)
        epochs = task.epochs if self.epochs is None else self.epochs
        design = {**self.design, "spaces": _dimensions(self.design.get("spaces"))}
        study = Study(task, entries, tuple(range(self.seeds)), epochs, **design, names=self.plain())
        ranges = {
            spec.name: Dimension(*rate, log=True) for spec in specs if isinstance(rate := self._rate(spec), tuple)
        }
        return _with_ranges(study, ranges) if ranges else study

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON data."""
        return {name: _listed(value) for name, value in dataclasses.asdict(self).items()}

    def _rate(self, spec: MethodSpec) -> Rate | None:
        """Return the item of a method in `rates`; None if there is none."""
        return self.rates.get(spec.name, self.rates.get(spec.method))

    def _entry(self, spec: MethodSpec, task: str) -> Entry:
        """Return the entry of a method, named by its settings."""
        own, named = spec.options.get("lr"), self._rate(spec)
        if own is not None and named is not None:
            raise ArgumentError(f"{spec.method}: lr must be given once, got {own} in --methods and {named} in --lr.")
        options = {**self.options, **{name: value for name, value in spec.options.items() if name != "lr"}}
        rate = own if named is None else Dimension(*named, log=True).at(0.5) if isinstance(named, tuple) else named
        made = entry(spec.method, task, lr=rate, schedule=self.schedule, options=options)
        return dataclasses.replace(made, name=spec.name, no_decay=self.no_decay)


def study_of_names(names: Mapping[str, Any] | None, source: Path) -> Study:
    """Return the study that `StudyNames.plain` describes.

    Args:
        names: Settings as JSON data; None for a study of Python objects.
        source: Path of the file that contains them, for error messages.

    Raises:
        RunError: If the study cannot be rebuilt.
    """
    if names is None:
        raise RunError(
            f"{source} describes a study of Python objects, which a worker process cannot rebuild; run it by run_study "
            "with jobs=1."
        )
    known = {item.name for item in dataclasses.fields(StudyNames)}
    if not {"task"} <= set(names) <= known:
        raise RunError(f"{source} is damaged: its settings are {sorted(names)}; restore it or use a different folder.")
    try:
        return StudyNames(**{name: _tupled(value) for name, value in names.items()}).study()
    except (TypeError, AttributeError) as error:  # of a value of a different type; tasks raise ArgumentError
        raise RunError(f"{source} is damaged: {error}; restore it or use a different folder.") from error


def _check_names(specs: Sequence[MethodSpec]) -> None:
    """Check that entries of different methods have different names, which those of files in two folders may not."""
    methods: dict[str, str] = {}
    for spec in specs:
        other = methods.setdefault(spec.name, spec.method)
        if other != spec.method:
            raise ArgumentError(f"{other} and {spec.method} have the same name, {spec.name}; rename one of the files.")


def _with_ranges(study: Study, ranges: Mapping[str, Dimension]) -> Study:
    """Return the study with other ranges of the learning rates of some entries.

    Raises:
        ArgumentError: If the study does not tune the learning rate of such an entry.
    """
    spaces = {name: dict(space) for name, space in study.search_spaces.items()}
    for name, rates in ranges.items():
        if "lr" not in spaces[name]:
            raise ArgumentError(
                f"{name}: a range of learning rates requires tuning (--budget) with lr among the tuned settings, got "
                f"{rates.low:g}..{rates.high:g}."
            )
        spaces[name]["lr"] = rates
    return dataclasses.replace(study, spaces=spaces)


def _dimensions(spaces: Mapping[str, Any] | None) -> dict[str, dict[str, Dimension]] | None:
    if spaces is None:
        return None
    return {entry: {name: Dimension(**item) for name, item in space.items()} for entry, space in spaces.items()}


def _with_target(task: tasks.Task, value: float | None) -> tasks.Task:
    """Return the task with a different target value of its metric: of accuracy or loss if the task has no target."""
    if value is None:
        return task
    target = task.target or Target("loss", value, "min")
    return dataclasses.replace(task, target=dataclasses.replace(target, value=value))


def _listed(value: Any) -> Any:
    """Return plain data with lists in place of tuples."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _tupled(value: Any) -> Any:
    """Return plain data with tuples in place of lists, as the command line parses them."""
    if isinstance(value, Mapping):
        return {key: _tupled(item) for key, item in value.items()}
    return tuple(map(_tupled, value)) if isinstance(value, (tuple, list)) else value
