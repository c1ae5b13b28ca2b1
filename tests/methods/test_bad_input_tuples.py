"""AutoSGM's tuples: wrong length, type, entry, or a setting said twice."""

import re

import pytest
from contracts.trajectories import identical, parameters, run

import dashpot as dp
from dashpot.optimizers import autosgm
from dashpot.schedules import Cosine

GOOD_TUPLES = {
    "lr_cfg": (True, 0.01, 0),
    "beta_cfg": (0.9999, 0.999, 0.9, 0.0, 0.0, True),
    "wd_cfg": (0.0, 1),
    "eps_cfg": (1e-8,),
}
ENTRIES = [(name, place, entry) for name, entries in autosgm._TUPLES.items() for place, entry in enumerate(entries)]


def test_the_table_of_tuples_is_complete():
    assert set(GOOD_TUPLES) == set(autosgm._TUPLES)
    dp.AutoSGM(parameters(), **GOOD_TUPLES)


@pytest.mark.parametrize(("name", "place", "entry"), ENTRIES, ids=[f"{n}-{e[0]}" for n, _, e in ENTRIES])
def test_a_bad_entry_of_a_tuple_is_named(name, place, entry):
    word, allowed = entry
    for value in allowed.refused():
        bad = (*GOOD_TUPLES[name][:place], value, *GOOD_TUPLES[name][place + 1 :])
        expected = re.escape(f"AutoSGM: {name}: {word} must be {allowed}, got {value!r}.")
        with pytest.raises(dp.ArgumentError, match=expected):
            dp.AutoSGM(parameters(), **{name: bad})
        with pytest.raises(dp.ArgumentError, match=expected):
            dp.AutoSGM([{"params": parameters(), name: bad}])


@pytest.mark.parametrize("name", GOOD_TUPLES)
def test_a_tuple_of_the_wrong_length_or_type_is_refused_with_its_entries(name):
    good = GOOD_TUPLES[name]
    wording = ", ".join(word for word, _ in autosgm._TUPLES[name])
    for bad in [good[:-1], (*good, 1), (), "abc", 0.5, {1, 2}, {"lr": 1}]:
        with pytest.raises(dp.ArgumentError, match=re.escape(f"AutoSGM: {name} must be a tuple ({wording}), got ")):
            dp.AutoSGM(parameters(), **{name: bad})


@pytest.mark.parametrize(("name", "place", "entry"), ENTRIES, ids=[f"{n}-{e[0]}" for n, _, e in ENTRIES])
def test_a_setting_given_as_tuple_and_as_keyword_is_refused(name, place, entry):
    word = entry[0]
    keyword = "coupled" if word == "decay" else GOOD_TUPLES[name][place]
    with pytest.raises(
        dp.ArgumentError, match=f"AutoSGM: {word} must be given once, got it in {name} and as a keyword"
    ):
        dp.AutoSGM(parameters(), **{name: GOOD_TUPLES[name], word: keyword})


@pytest.mark.parametrize("bad", [(1, 0, 0.1), (9, 0, 0, 2, 1, 3, 10, 1, 0), "rc", 5, (1, 0, 2.0, 2, 1, 3, 10, 1, 0)])
def test_a_bad_window_is_refused(bad):
    with pytest.raises(dp.ArgumentError, match="rc_cfg"):
        dp.AutoSGM(parameters(), rc_cfg=bad)


def test_a_window_given_twice_is_refused():
    with pytest.raises(dp.ArgumentError, match="AutoSGM: rc_cfg must be None if schedule is given, got both"):
        dp.AutoSGM(parameters(), rc_cfg=(1, 0, 0.1, 2, 1, 3, 10, 1, 0), schedule=Cosine(10))


def test_a_group_may_have_tuples_of_its_own():
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
def test_quirks_that_are_no_sequence_are_refused(bad):
    with pytest.raises(dp.ArgumentError, match="AutoSGM: quirks must be a sequence of names, got"):
        dp.AutoSGM(parameters(), quirks=bad)
