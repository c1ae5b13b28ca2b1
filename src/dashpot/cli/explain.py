"""The command `dashpot explain`, which describes the effect of the settings of a method or of a schedule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dashpot.cli.command_words import command_line
from dashpot.cli.export_options import check_export_files, write_exports
from dashpot.cli.first_line import print_first_line
from dashpot.cli.values import integer, number, parse_pairs
from dashpot.constraints import (
    ARGUMENTS,
    FLAG,
    Constraint,
    Interval,
    Optional,
    Pair,
    check,
    check_explain_arguments,
    unknown,
)
from dashpot.errors import ArgumentError
from dashpot.names import METHODS, SCHEDULES, VARIANTS, known_methods
from dashpot.runs.settings import parse_value

WITHOUT_OPTION = {
    *("maximize", "differentiable", "foreach", "fused", "seed", "update_d_every", "d_warmup"),  # no effect here
    "version",  # an option of the whole command; --set version=2
}
"""Settings in `ARGUMENTS` that are not options of the command."""


def _annotation(name: str, allowed: Constraint) -> Any:
    """Return the annotation of the option for a setting, with the allowed values as its help."""
    inner = allowed.inner if isinstance(allowed, Optional) else allowed
    text = str(allowed)[:1].upper() + str(allowed)[1:] + "."
    if isinstance(inner, Pair):
        return Annotated[list[str] | None, Parameter(help=text, consume_multiple=True, group=GROUP)]
    if inner == FLAG:
        opposite = f"--no-{name.replace('_', '-')}"
        return Annotated[bool | None, Parameter(negative=opposite, group=GROUP)]
    if isinstance(inner, Interval):
        kind, convert = (int, integer) if inner.integer else (float, number)
        return Annotated[kind | None, Parameter(help=text, converter=convert, allow_leading_hyphen=True, group=GROUP)]
    return Annotated[str | None, Parameter(help=text, group=GROUP)]


GROUP = "Settings of a method"
if TYPE_CHECKING:
    MethodOptions = Any
else:
    MethodOptions = dataclasses.make_dataclass(
        "MethodOptions",
        [
            (name, _annotation(name, allowed), dataclasses.field(default=None))
            for name, allowed in ARGUMENTS.items()
            if name not in WITHOUT_OPTION
        ],
        frozen=True,
        kw_only=True,
        namespace={"__module__": __name__},
    )


def explain(
    name: Annotated[str | None, Parameter(help="Method, such as adamw, or schedule, such as cosine:floor=0.1.")] = None,
    /,
    *,
    settings: Annotated[MethodOptions | None, Parameter(name="*")] = None,
    set: Annotated[
        list[str] | None, Parameter(help="Settings NAME=VALUE without an option of their own.", consume_multiple=True)
    ] = None,
    curvature: Annotated[
        float | None,
        Parameter(converter=number, help="Curvature of the loss; for a method with a denominator, divided by it."),
    ] = None,
    noise: Annotated[
        float | None, Parameter(converter=number, help="Variance of the gradient of one example, with --curvature.")
    ] = None,
    batch_size: Annotated[int | None, Parameter(converter=integer, help="Batch size.")] = None,
    to_batch: Annotated[
        int | None, Parameter(converter=integer, help="Batch size for which the settings are scaled.")
    ] = None,
    schedule: Annotated[
        str | None, Parameter(help="Schedule of the learning rate, such as warmup-cosine (see `dashpot schedules`).")
    ] = None,
    steps: Annotated[int | None, Parameter(converter=integer, help="Length of the schedule.")] = None,
    step: Annotated[
        int | None, Parameter(converter=integer, help="Completed steps at which a schedule is evaluated.")
    ] = None,
    plot: Annotated[Path | None, Parameter(help="PNG, PDF or SVG file of the figure.")] = None,
    html: Annotated[Path | None, Parameter(help="HTML file with sentences, table and figures.")] = None,
    json: Annotated[bool, Parameter(help="Print the result as a line of JSON.")] = False,
) -> None:
    """Describe the effect of settings in sentences and numbers: memory, stability, decay, noise and batch size."""
    subject = _subject(name)
    given = _settings(subject, settings, set)
    questions = {"curvature": curvature, "noise": noise, "batch_size": batch_size, "to_batch": to_batch, "step": step}
    check_explain_arguments(**questions, steps=steps)
    is_schedule = subject.partition(":")[0] in SCHEDULES
    _check_combination(
        is_schedule, given, schedule, steps, {key for key, value in questions.items() if value is not None}
    )
    check_export_files("explain", plot, html)
    if not json:  # the output is a single line of JSON
        print_first_line(f"Explaining {subject}.")
    import dashpot as dp
    from dashpot.analysis.explainer import DEFAULT_STEPS
    from dashpot.schedules import from_name, split_name
    from dashpot.utils.strict_json import encode

    if schedule is not None:
        kind, options = split_name(schedule)
        given["schedule"] = from_name(kind, DEFAULT_STEPS if steps is None else steps, **options)
    found = dp.explain(subject, **questions, steps=steps if is_schedule else None, **given)
    print(encode(found.to_dict()) if json else found)
    write_exports(found, plot, html, command=command_line(), is_quiet=json)


def _subject(name: str | None) -> str:
    if name is None:
        raise ArgumentError("explain: name is missing; give a method, such as adamw, or a schedule, such as cosine.")
    if name not in known_methods() and name.partition(":")[0] not in SCHEDULES:
        raise unknown("method or schedule", name.partition(":")[0], [*known_methods(), *SCHEDULES])
    return name


def _settings(name: str, options: Any, items: Sequence[str] | None) -> dict[str, Any]:
    """Return the settings of the options and of --set, after checking their ranges."""
    given = {key: value for key, value in (vars(options) if options is not None else {}).items() if value is not None}
    values = {key: _value(value) for key, value in given.items()}
    for key, value in (parse_pairs("--set", items) if items is not None else {}).items():
        if values.setdefault(key, value) != value:
            raise ArgumentError(f"explain: {key} must be given once, got {values[key]} and, in --set, {value}.")
    method = METHODS.get(VARIANTS.get(name, (name, {}))[0])
    owner = "explain" if method is None else method.path.rpartition(":")[2]
    for key, value in values.items():
        if key in ARGUMENTS:
            check(owner, key, value, ARGUMENTS[key])
    return values


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return parse_value(",".join(value))
    return parse_value(value) if isinstance(value, str) else value


def _check_combination(
    is_schedule: bool, settings: Mapping[str, Any], schedule: str | None, steps: int | None, questions: set[str]
) -> None:
    """Check that the options apply to the subject."""
    if is_schedule:
        refused = sorted({*settings, *questions, *(["schedule"] if schedule is not None else [])} - {"lr"})
        if refused:
            raise ArgumentError(
                f"explain: a schedule is explained with --steps and --lr only, got {', '.join(refused)}."
            )
    elif steps is not None and schedule is None:
        raise ArgumentError("explain: --steps is the length of a schedule; give one by --schedule.")
