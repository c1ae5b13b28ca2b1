"""The benchmark of early warnings: definitions, and a part of its table."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import early_warning
import early_warning_runs as runs


def test_doubling_is_relative_to_running_minimum():
    assert runs.doubling([4.0, 2.0, 3.0, 1.0, 1.9, 2.0, 9.0]) == 6
    assert runs.doubling([4.0, 3.0, 5.9]) is None
    assert runs.doubling([1.0, float("nan")]) == 2


@pytest.mark.parametrize(("first", "expected"), [(99, False), (100, True), (180, True), (181, False)])
def test_warning_counts_from_onset_to_20_steps_before_doubling(first, expected):
    own = {"onset": 100, "doubled": 200, "warnings": [[first, "growing updates", "w"]]}
    assert early_warning.is_warned(own) is expected


@pytest.mark.parametrize(("kind", "tensor", "expected"), [("bad batch", "a", True), ("bad batch", "b", False)])
def test_sudden_cause_is_named_by_kind_and_tensor(kind, tensor, expected):
    own = {"kind": "batch", "onset": 100, "factors": {"a": 9.0, "b": 4.0}, "warnings": [[101, kind, tensor]]}
    assert early_warning.is_named(own) is expected
    assert not early_warning.is_named({**own, "warnings": [[103, kind, tensor]]})
    assert not early_warning.is_named({**own, "warnings": [[101, "rate jump", tensor]]})


def test_settings_depend_only_on_kind_and_seed():
    assert runs.setting("ramp", 5) == runs.setting("ramp", 5)
    assert runs.setting("ramp", 5) != runs.setting("ramp", 6)


@pytest.mark.slow
def test_part_of_the_table():
    """Of 5 slow instabilities, at least 3 are announced (must: 60 %), and of 4 rate jumps, at least 3 are named."""
    slow = list(early_warning.results("sharpening", 5, early_warning.HELD_OUT, None))
    assert sum(map(early_warning.is_warned, slow)) >= 3
    sudden = list(early_warning.results("jump", 4, early_warning.HELD_OUT, None))
    assert sum(map(early_warning.is_named, sudden)) >= 3
