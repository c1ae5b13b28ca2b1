"""Matching of saved parameter names with the names in an optimizer, ignoring module wrappers."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence

from dashpot.errors import ArgumentError

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Attributes in which torch's wrappers (compile, FSDP, activation checkpointing) store the wrapped module."""

_MAX_SHOWN = 4  # maximum number of names of each kind in a message


def match_names(owner: str, wanted: Sequence[str], saved: Sequence[str]) -> dict[str, str]:
    """Map each wanted name to its saved name, ignoring module wrappers and a prefix common to all names of one side.

    Raises:
        ArgumentError: If a name has no counterpart.

    Example:
        >>> match_names("Adam", ["fc.weight", "fc.bias"], ["module.fc.bias", "module.fc.weight"])
        {'fc.weight': 'module.fc.weight', 'fc.bias': 'module.fc.bias'}
    """
    if set(wanted) == set(saved):
        return {name: name for name in wanted}
    own, theirs = _without_prefix(unwrapped(wanted), unwrapped(saved))
    if set(own) != set(theirs):
        raise _mismatch(owner, own, theirs)
    saved_name = dict(zip(theirs, saved, strict=True))
    return {name: saved_name[bare] for name, bare in zip(wanted, own, strict=True)}


def unwrapped(names: Sequence[str]) -> list[str]:
    """Return the names without wrappers, or the unchanged names if two of them would then be equal."""
    bare = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names]
    while bare and all(name.startswith("module.") for name in bare):
        bare = [name.removeprefix("module.") for name in bare]
    return bare if len(set(bare)) == len(bare) else list(names)


def _without_prefix(own: list[str], theirs: list[str]) -> tuple[list[str], list[str]]:
    """Return both lists, after removing from one list the common prefix whose removal makes the most names match."""
    pairs = [(own, theirs)]
    pairs += [(own, cut) for cut in _cuts(theirs)]
    pairs += [(cut, theirs) for cut in _cuts(own)]
    return max(pairs, key=lambda pair: len(set(pair[0]) & set(pair[1])))


def _cuts(names: list[str]) -> list[list[str]]:
    """For each dotted prefix common to all names, return a copy of the names without this prefix."""
    parts = [name.split(".") for name in names]
    return [[".".join(part[count:]) for part in parts] for count in range(1, len(_shared(names)) + 1)]


def _shared(names: list[str]) -> list[str]:
    """Return the names of the modules that contain all named parameters, outermost first."""
    parts = [name.split(".")[:-1] for name in names]
    pairs = zip(min(parts), max(parts), strict=False) if parts else ()
    return [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]


def _mismatch(owner: str, own: list[str], theirs: list[str]) -> ArgumentError:
    """Return the error for names without a counterpart, with a message of at most ten lines."""
    missing, unknown = sorted(set(own) - set(theirs)), sorted(set(theirs) - set(own))
    lines = [
        f"{owner}: saved parameter names must match the optimizer's: {len(missing)} of {len(own)} names are not saved, "
        f"{len(unknown)} of {len(theirs)} saved names are unknown."
    ]
    near: set[str] = set()
    for name in missing[:_MAX_SHOWN]:
        found = difflib.get_close_matches(name, unknown, n=1)
        near.update(found)
        lines.append(f"  missing {_short(name)}" + (f", nearest saved name {_short(found[0])}" if found else ""))
    lines += [f"  unknown {_short(name)}" for name in unknown if name not in near][:_MAX_SHOWN]
    prefixes = [f"{text} begin with {_short(p)}" for text, p in _prefixes(own, theirs)]
    return ArgumentError("\n".join([*lines, *([f"  All {' and all '.join(prefixes)}."] if prefixes else [])]))


def _prefixes(own: list[str], theirs: list[str]) -> list[tuple[str, str]]:
    """Return the common dotted prefix of each side that has several names, if these prefixes differ."""
    both = [("names of the optimizer", own), ("saved names", theirs)]
    found = [(text, ".".join(_shared(names))) for text, names in both if len(names) > 1]
    return [(text, f"{p}.") for text, p in found if p and len({q for _, q in found}) > 1]


def _short(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:60]}...{name[-57:]}")
