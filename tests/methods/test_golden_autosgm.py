"""AutoSGM compared with all recorded trajectories of the original implementation."""

import golden_data as golden
import pytest

import dashpot as dp

FILES = ["constant", "moment", "num1", "num2", "num3", "num4", "quirks", "windows"]
CASES = golden.cases(*(f"autosgm_{name}" for name in FILES))
IDS = [case_id for case_id, _, _ in CASES]


def facts_of(case_id, problem, case):
    """Return the kind of problem, quirks and settings of a case (every entry of a tuple is a setting), by file."""
    facts = {("kind", 0, problem["kind"]), *(("quirk", 0, name) for name in case["quirks"])}
    for key, value in case["config"].items():
        facts |= {(key, place, repr(item)) for place, item in enumerate(value if isinstance(value, list) else [value])}
    return {(case_id.split("-")[0], *fact) for fact in facts}


def as_parameters(cases):
    """Return parameters, with cases as slow tests if all their facts occur in earlier cases."""
    seen, found = set(), []
    for case in cases:
        facts = facts_of(*case)
        found.append(pytest.param(*case, marks=() if facts - seen else pytest.mark.slow))
        seen |= facts
    return found


def optimizer(params, case):
    config = dict(case["config"])
    return dp.AutoSGM(params, **config, quirks=tuple(case["quirks"]))


@pytest.mark.parametrize(("case_id", "problem", "case"), as_parameters(CASES), ids=IDS)
def test_trajectory_equals_the_original(case_id, problem, case):
    params = golden.start(problem)
    # This is the tolerance in tests/golden/README.md; the formulas reproduce the recordings to about 1e-14.
    assert golden.replay(optimizer(params, case), params, problem, case) < 1e-10


QUIRKY = [item for item in CASES if set(item[2]["quirks"]) - {"pole_only_debias"}]
QUIRKY = [item for item in QUIRKY if item[0] != "window-15-original"]  # 6 epochs of 6 steps: both conventions agree


@pytest.mark.parametrize(("case_id", "problem", "case"), QUIRKY, ids=[item[0] for item in QUIRKY])
def test_trajectory_without_its_quirks_differs(case_id, problem, case):
    """This is a negative control: without its quirks, a recording is not reproduced."""
    params = golden.start(problem)
    plain = {**case, "quirks": []}
    assert golden.replay(optimizer(params, plain), params, problem, plain) > 1e-6


def test_every_case_was_collected():
    assert len(CASES) == sum(len(golden.load(f"autosgm_{name}")["cases"]) for name in FILES) > 100
