"""Messages for common mistakes contain suggestions, and warnings point to user code."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import dashpot as dp
from dashpot.engine.native import build
from dashpot.optimizers import registry
from dashpot.optimizers.options import OPTION_NAMES
from dashpot.utils.warn import warn

MODEL = torch.nn.Linear(2, 2)
CLASSES = tuple(row.cls for row in registry.METHODS.values())


def weights() -> list[torch.Tensor]:
    return [torch.ones(2, requires_grad=True)]


def constant(name: str) -> Any:
    return {name: dp.schedules.Constant()}


def misplaced(part: Any) -> Any:
    return {"filter": part}


MESSAGES = [
    (lambda: dp.AdamW(MODEL), "AdamW: params must be parameters, as in model.parameters(), got a Linear."),
    (
        lambda: dp.AdamW([{"params": MODEL}]),
        "AdamW: params must be parameters, as in model.parameters(), got a Linear.",
    ),
    (
        lambda: dp.AdamW(MODEL.parameters),
        "AdamW: params must be parameters, as in model.parameters(), got the method itself.",
    ),
    (
        lambda: dp.AdamW(weights(), schedule=constant("betas")),
        "AdamW: betas is a pair: schedule its entries, betas[0] or betas[1].",
    ),
    (
        lambda: dp.QHAdam(weights(), schedule=constant("nus")),
        "QHAdam: nus is a pair: schedule its entries, nus[0] or nus[1].",
    ),
    (
        lambda: dp.SGM(weights(), **misplaced(0.9)),
        "SGM: filter must be None, a Stage or a sequence of Stages, got 0.9; use dp.Filter(pole=0.9).",
    ),
    (
        lambda: dp.SGM(weights(), **misplaced(dp.Filter)),
        "SGM: filter must be None, a Stage or a sequence of Stages, got <class 'dashpot.stages.filter.Filter'>; "
        "use dp.Filter().",
    ),
]


@pytest.mark.parametrize(("build", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_error_message(build, message):
    with pytest.raises(dp.ArgumentError) as caught:
        build()
    assert str(caught.value) == message


def test_unknown_scheduled_setting_lists_entries_of_pairs():
    with pytest.raises(dp.ArgumentError, match=r"no hyperparameter 'beta'; it has lr, betas\[0\], betas\[1\], eps"):
        dp.AdamW(weights(), schedule=constant("beta"))


@pytest.mark.parametrize("cls", CLASSES)
def test_unknown_keyword_lists_arguments_and_options(cls):
    unknown: dict[str, Any] = {"zzzz": 1}
    with pytest.raises(TypeError) as caught:
        cls(weights(), **unknown)
    arguments, options = str(caught.value).split(" Options of every optimizer: ")
    assert arguments.startswith(f"{cls.__name__}: unknown argument 'zzzz'. Arguments: lr")
    assert options == ", ".join(OPTION_NAMES) + "."


@pytest.mark.parametrize(
    ("cls", "word", "near"),
    [(dp.AdamW, "beta", "betas"), (dp.ESGD, "learning_rate", "lr"), (dp.SGD, "maxnorm", "max_norm")],
)
def test_unknown_keyword_suggests_the_nearest(cls, word, near):
    with pytest.raises(TypeError, match=rf"^{cls.__name__}: unknown argument '{word}': did you mean '{near}'\? Arg"):
        cls(weights(), **{word: 0.1})


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("Lion", "; write the rule as a custom stage, see README.md"),
        ("LAMB", "; write the rule as a custom stage, see docs/own-stage.md"),
        ("Adadelta", "; torch.optim.Adadelta exists"),
        ("adamw", ": did you mean 'AdamW'?"),
        ("AdmW", ": did you mean 'AdamW'?"),
        ("parm_groups", ": did you mean 'param_groups'?"),
        ("nothing", ""),
        ("__path_of_nothing__", ""),
    ],
)
def test_missing_public_name_has_a_suggestion(name, suggestion):
    with pytest.raises(AttributeError) as caught:
        getattr(dp, name)
    assert str(caught.value) == f"module 'dashpot' has no attribute {name!r}{suggestion}"


# ---- warnings -------------------------------------------------------------------------------------------------------


def test_warnings_point_to_user_code():
    params = weights()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dp.SGM(params, filter=dp.Filter(0.5, zero=0.7))
        optimizer = dp.AdamW(params, lr=1.0, weight_decay=1.5)
        params[0].grad = torch.ones(2)
        optimizer.step()
        torch.no_grad()(optimizer.step)()
        warn("ours")
    assert len(caught) == 4
    assert {item.filename for item in caught} == {__file__}
    assert len({item.lineno for item in caught}) == 4


def test_package_warns_only_through_its_helper():
    """After a change of the call depth, `warnings.warn` with a fixed stacklevel would point into the package."""
    package = dp.__path__[0]
    pattern = "warnings.warn("
    files = [path for path in sorted(Path(package).rglob("*.py")) if path.name != "warn.py"]
    assert [path.name for path in files if pattern in path.read_text(encoding="utf-8")] == []


# ---- noexec file systems ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [("x.so: failed to map segment from shared object", True), ("x.so: undefined symbol: f", False)],
)
def test_load_errors_on_noexec_file_systems_are_detected(tmp_path, text, forbidden):
    assert build._is_noexec(tmp_path, OSError(text)) is forbidden
