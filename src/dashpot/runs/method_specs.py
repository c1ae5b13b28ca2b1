"""Methods of a comparison as text, each with settings of its own: `adamw:weight_decay=0.1,autosgm-1:zero=0.5`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dashpot.errors import ArgumentError
from dashpot.runs.method_names import absolute_method, entry_name, is_method, split_method, unknown_method
from dashpot.runs.settings import parse_value


@dataclass(frozen=True)
class MethodSpec:
    """A method with the settings that distinguish it from other entries of the same method.

    >>> MethodSpec("adamw", {"weight_decay": 0.1, "betas": (0.9, 0.99)}).name
    'adamw-weight_decay-0.1-betas-0.9-0.99'
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the entry: the method and its settings, in the characters of file names."""
        parts = [entry_name(self.method)]
        for key, value in self.options.items():
            parts += [key, *(_text(item) for item in (value if isinstance(value, tuple) else (value,)))]
        return "-".join(parts)


def parse_methods(text: str) -> tuple[MethodSpec, ...]:
    """Parse a comma-separated list of methods, each with optional settings `METHOD:NAME=VALUE,NAME=VALUE`.

    A method is a name listed by `dashpot methods`, a class such as `torch.optim.RAdam`, or `path/to/file.py:NAME`; the
    existence of the class or of the file is not checked. A value may be a tuple, such as `adamw:betas=0.9,0.99`.

    Raises:
        ArgumentError: If a method is unknown, or a setting has no value or is repeated.

    >>> [spec.name for spec in parse_methods("adamw:betas=0.9,0.99,weight_decay=0.1,sgd,sgd:lr=0.5")]
    ['adamw-betas-0.9-0.99-weight_decay-0.1', 'sgd', 'sgd-lr-0.5']
    >>> parse_methods("adamw:weight_decay")
    Traceback (most recent call last):
    dashpot.errors.ArgumentError: adamw: settings must be NAME=VALUE, such as weight_decay=5e-4, got 'weight_decay'.
    """
    found: list[tuple[str, dict[str, str]]] = []
    for part in text.split(","):
        options = found[-1][1] if found else {}
        head, first = split_method(part)
        if is_method(head):
            found.append((head, {}))
            if first is not None:
                _add(head, found[-1][1], first)
        elif options and not isinstance(parse_value(part), str):
            options[list(options)[-1]] += f",{part}"  # the next element of a tuple
        elif found and "=" in part and part.partition("=")[0].isidentifier():
            _add(found[-1][0], options, part)
        else:
            raise unknown_method(head)
    return tuple(
        MethodSpec(method, {name: parse_value(value) for name, value in options.items()}) for method, options in found
    )


def absolute_methods(text: str) -> str:
    """Make the paths in a list of methods absolute, so that worker processes in any folder find the files.

    Raises:
        ArgumentError: If an absolute path contains a character that separates methods or settings.

    >>> absolute_methods("adamw:lr=0.1,weight_decay=0,/mine/own.py:Lion:lr=0.1")
    'adamw:lr=0.1,weight_decay=0,/mine/own.py:Lion:lr=0.1'
    """
    return ",".join(map(_absolute, text.split(",")))


def _absolute(part: str) -> str:
    method, setting = split_method(part)
    absolute = absolute_method(method)
    if split_method(absolute) != (absolute, None) or "," in absolute:
        path = absolute.rpartition(":")[0]
        raise ArgumentError(f"The path of an optimizer file must not contain a comma, a colon or '=', got {path}.")
    return absolute + ("" if setting is None else f":{setting}")


def _add(method: str, options: dict[str, str], item: str) -> None:
    name, equals, value = item.partition("=")
    if not name or not equals or not value:
        raise ArgumentError(f"{method}: settings must be NAME=VALUE, such as weight_decay=5e-4, got {item!r}.")
    if name in options:
        raise ArgumentError(f"{method}: {name} must be given once, got {options[name]} and {value}.")
    options[name] = value


def _text(value: Any) -> str:
    """Return a value with the characters that names of entries may contain."""
    text = str(value).lower() if isinstance(value, (bool, type(None))) else str(value)
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)
