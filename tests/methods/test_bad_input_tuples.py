"""AutoSGM's tuples with wrong lengths, types or entries, and settings given twice."""

import re

import pytest
from contracts.trajectories import identical, parameters, run

import dashpot as dp
from dashpot.optimizers import autosgm
from dashpot.schedules import Cosine

VALID_TUPLES = {
    "lr_cfg": (True, 0.01, 0),
    "beta_cfg": (0.9999, 0.999, 0.9, 0.0, 0.0, True),
    "wd_cfg": (0.0, 1),
    "eps_cfg": (1e-8,),
}
ENTRIES = [(name, place, entry) for name, entries in autosgm._TUPLES.items() for place, entry in enumerate(entries)]


def test_valid_tuples_cover_every_tuple():
    assert set(VALID_TUPLES) == set(autosgm._TUPLES)
    dp.AutoSGM(parameters(), **VALID_TUPLES)


@pytest.mark.parametrize(("name", "place", "entry"), ENTRIES, ids=[f"{n}-{e[0]}" for n, _, e in ENTRIES])
def test_invalid_tuple_entry_is_named(name, place, entry):
    word, allowed = entry
    for value in allowed.refused():
        bad = (*VALID_TUPLES[name][:place], value, *VALID_TUPLES[name][place + 1 :])
        expected = re.escape(f"AutoSGM: {name}: {word} must be {allowed}, got {value!r}.")
        with pytest.raises(dp.ArgumentError, match=expected):
            dp.AutoSGM(parameters(), **{name: bad})
        with pytest.raises(dp.ArgumentError, match=expected):
            dp.AutoSGM([{"params": parameters(), name: bad}])


@pytest.mark.parametrize("name", VALID_TUPLES)
def test_tuple_of_wrong_length_or_type_is_rejected(name):
    good = VALID_TUPLES[name]
    wording = ", ".join(word for word, _ in autosgm._TUPLES[name])
    for bad in [good[:-1], (*good, 1), (), "abc", 0.5, {1, 2}, {"lr": 1}]:
        with pytest.raises(dp.ArgumentError, match=re.escape(f"AutoSGM: {name} must be a tuple ({wording}), got ")):
            dp.AutoSGM(parameters(), **{name: bad})


@pytest.mark.parametrize(("name", "place", "entry"), ENTRIES, ids=[f"{n}-{e[0]}" for n, _, e in ENTRIES])
def test_setting_in_tuple_and_keyword_is_rejected(name, place, entry):
    word = entry[0]
    keyword = "coupled" if word == "decay" else VALID_TUPLES[name][place]
    with pytest.raises(
        dp.ArgumentError, match=f"AutoSGM: {word} must be given once, got it in {name} and as a keyword"
    ):
        dp.AutoSGM(parameters(), **{name: VALID_TUPLES[name], word: keyword})


@pytest.mark.parametrize("bad", [(1, 0, 0.1), (9, 0, 0, 2, 1, 3, 10, 1, 0), "rc", 5, (1, 0, 2.0, 2, 1, 3, 10, 1, 0)])
def test_invalid_window_is_rejected(bad):
    with pytest.raises(dp.ArgumentError, match="rc_cfg"):
        dp.AutoSGM(parameters(), rc_cfg=bad)


def test_window_with_schedule_is_rejected():
    with pytest.raises(dp.ArgumentError, match="AutoSGM: rc_cfg must be None if schedule is given, got both"):
        dp.AutoSGM(parameters(), rc_cfg=(1, 0, 0.1, 2, 1, 3, 10, 1, 0), schedule=Cosine(10))


def test_group_accepts_tuples():
    first, second = parameters(seed=1), parameters(seed=2)
    group = {"params": second, "lr_cfg": (True, 0.05, 3), "beta_cfg": (0.9, 0.99, 0.5, 0.2, 0.0, True)}
    joint = dp.AutoSGM([{"params": first}, group])
    run(joint, [*first, *second], 4)
    alone = parameters(seed=2)
    other = dp.AutoSGM(alone, lr=0.05, numerator=3, beta_n=0.9, beta_a=0.99, pole=0.5, zero=0.2)
    run(other, [*parameters(), *alone], 4)
    assert identical(second, alone)
    with pytest.raises(dp.ArgumentError, match="AutoSGM: rc_cfg must be given to the optimizer"):
        dp.AutoSGM([{"params": parameters(), "rc_cfg": (1, 0, 0.1, 2, 1, 3, 10, 1, 0)}])
    with pytest.raises(dp.ArgumentError, match="AutoSGM: lr must be given once"):
        dp.AutoSGM([{"params": parameters(), "lr": 0.1, "lr_cfg": (True, 0.05, 3)}])


@pytest.mark.parametrize("bad", ["pole_only_debias", 3, {"pole_only_debias"}])
def test_quirks_must_be_a_sequence(bad):
    with pytest.raises(dp.ArgumentError, match="AutoSGM: quirks must be a sequence of names, got"):
        dp.AutoSGM(parameters(), quirks=bad)
