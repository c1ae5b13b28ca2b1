"""Windows: golden sequences, properties for any configuration, and AutoSGM's tuple."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules_support import golden

from dashpot.errors import ArgumentError
from dashpot.schedules import SHAPES, Constant, Window
from dashpot.schedules.kronecker import point
from dashpot.schedules.rc_cfg import SLOTS
from dashpot.schedules.shapes import stacked

RAW = golden("windows_raw")["cases"]
GOOD = {"rcm": 1, "inseq": 0, "x": 0.1, "n": 2, "m": 1, "tau": 3, "spe": 10, "cfact": 1, "e": 0.2}
ORDERS = {"raised-cosine": 2.5, "polynomial": 1.5, "exponential": 0.05, "simple-polynomial": 1.8, "logistic": 4.324}


LENGTHS = st.integers(2, 40)


def rc(**changes):
    return tuple({**GOOD, **changes}.values())


def raw_id(case):
    return "-".join(str(case[key]) for key in ("sequence", "variant", "rcm", "m", "cfact", "e"))


@st.composite
def windows(draw, *, half=None, uniform=False, whole=False, lengths=LENGTHS):
    hold = draw(st.integers(1, 4))
    values = draw(lengths)
    shape = draw(st.sampled_from([name for name in SHAPES if name != "flat"]))
    return Window(
        shape,
        steps=values * hold,
        order=ORDERS.get(shape),
        floor=draw(st.floats(0, 1)),
        half=draw(st.booleans()) if half is None else half,
        flat_top=0.0 if whole else draw(st.floats(0, 0.9)),
        repeats=draw(st.integers(1, 4)),
        hold=hold,
        sequence="uniform" if uniform else draw(st.sampled_from(["uniform", "kronecker", "kronecker-unsorted"])),
    )


@pytest.mark.parametrize("case", RAW, ids=raw_id)
def test_window_equals_golden(case):
    sequence = {"uniform": 0, "kronecker": 1}[case["sequence"]]
    slots = {key: case[key] for key in GOOD if key in case}
    window = Window.from_rc_cfg(rc(**slots, inseq=sequence), quirks=case["quirks"])
    # The originals subtract nearly equal numbers near the end of a shape; hence 1e-14 absolute plus 1e-10 relative.
    np.testing.assert_allclose(window.table(len(case["values"])), case["values"], rtol=1e-10, atol=1e-14)


def test_golden_has_all_cases():
    assert len(RAW) == 64
    assert sum(bool(case["quirks"]) for case in RAW) == 6


@settings(deadline=None, max_examples=80)
@given(window=windows())
def test_factors_are_within_floor_and_1_and_periodic(window):
    table = window.table(3 * window.steps)
    assert all(window.floor <= factor <= 1 for factor in table)
    assert table[: window.steps] == table[window.steps : 2 * window.steps] == table[2 * window.steps :]


@settings(deadline=None, max_examples=50)
@given(window=windows())
def test_values_are_held(window):
    table = np.array(window.table(window.steps)).reshape(-1, window.hold)
    assert np.all(table == table[:, :1])


@settings(deadline=None, max_examples=50)
@given(window=windows(half=True, whole=True, uniform=True))
def test_half_window_starts_at_1_and_ends_one_value_short_of_the_floor(window):
    values = window.steps // window.hold
    last = stacked(window.shape, (values - 1) / values, window.order, window.repeats)
    assert window(0) == 1.0
    assert window(window.steps - 1) == window.floor + (1 - window.floor) * last


@settings(deadline=None, max_examples=50)
@given(window=windows(half=True))
def test_half_window_never_rises_unless_unsorted(window):
    falls = np.diff(window.table(window.steps)) <= 1e-15  # rounding only
    assert window.sequence == "kronecker-unsorted" or np.all(falls)


@settings(deadline=None, max_examples=50)
@given(window=windows(half=False, uniform=True, lengths=st.sampled_from([2, 4, 8, 16, 32])))
def test_full_window_starts_at_the_floor_peaks_in_the_middle_and_mirrors(window):
    # With a power of two, |2 f - 1| is exact, and therefore also the mirror image.
    table = window.table(window.steps)[:: window.hold]
    assert table[0] == window.floor
    assert table[len(table) // 2] == 1.0
    assert table[1:] == table[1:][::-1]


@settings(deadline=None, max_examples=50)
@given(window=windows(half=False, lengths=st.integers(1, 20).map(lambda n: 2 * n)))
def test_full_kronecker_window_mirrors(window):
    table = window.table(window.steps)[:: window.hold]
    assert window.sequence == "uniform" or table == table[::-1]


@settings(deadline=None, max_examples=50)
@given(window=windows(uniform=True, half=True), sequence=st.sampled_from(["kronecker", "kronecker-unsorted"]))
def test_flat_top_covers_its_fraction(window, sequence):
    values = window.steps // window.hold
    uniform = window.table(window.steps)[:: window.hold]
    assert all(factor == 1.0 for i, factor in enumerate(uniform) if i / values < window.flat_top)
    other = Window(window.shape, values, window.order, window.floor, True, window.flat_top, sequence=sequence)
    assert all(factor == 1.0 for factor in other.table(int(window.flat_top * values)))


def test_unsorted_kronecker_follows_the_sequence_after_the_flat_top():
    window = Window("polynomial", steps=8, flat_top=0.25, sequence="kronecker-unsorted")
    assert window.table(8) == [1.0, 1.0, *[1 - point(k) for k in range(6)]]
    ordered = Window("polynomial", steps=8, flat_top=0.25, sequence="kronecker")
    assert sorted(window.table(8)) == sorted(ordered.table(8))
    assert window.table(8) != ordered.table(8)


def test_full_windows_match_the_documentation():
    def quarter(shape, order):
        return Window(shape, steps=4, order=order, half=False).table(4)

    assert quarter("raised-cosine", 2) == pytest.approx([0, 0.5, 1, 0.5], abs=1e-15)
    assert quarter("logistic", 3.3) == pytest.approx([0, 0.5, 1, 0.5], abs=1e-15)
    assert quarter("polynomial", 1) == [0, 0.5, 1, 0.5]
    assert quarter("simple-polynomial", 2) == [0, 0.5625, 1, 0.5625]
    assert quarter("exponential", 0.5) == pytest.approx([0, 2**0.5 - 1, 1, 2**0.5 - 1], abs=1e-15)
    assert [round(v, 4) for v in quarter("late-logistic", 4)] == [0, 0.8431, 1, 0.8431]


def test_default_order_depends_on_the_shape():
    for name, shape in SHAPES.items():
        assert Window(name, steps=9) == Window(name, steps=9, order=shape.order)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "flat"])
def test_order_out_of_range_raises(name):
    allowed = SHAPES[name].orders
    for bad in allowed.refused():
        if bad is not None:
            with pytest.raises(ArgumentError, match="order must be"):
                Window(name, steps=9, order=bad)
        with pytest.raises(ArgumentError, match=r"^rc_cfg: n( \(order of [a-z-]+\))? must be a number"):
            Window.from_rc_cfg(rc(rcm=tuple(SHAPES).index(name), n=bad))


def test_flat_shape_rejects_an_order():
    with pytest.raises(ArgumentError, match="order must be None for the flat shape, got 2"):
        Window("flat", steps=9, order=2)


@pytest.mark.parametrize(("steps", "hold"), [(1, 1), (9, 2), (4, 4), (2, 4)])
def test_window_with_too_few_or_fractional_values_raises(steps, hold):
    with pytest.raises(ArgumentError, match=f"got steps={steps}, hold={hold}"):
        Window("polynomial", steps=steps, hold=hold)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"cfact": 1}, Window("raised-cosine", 30, 2, 0.1, flat_top=0.2)),
        ({"cfact": 2}, Window("raised-cosine", 10, 2, 0.1, flat_top=0.2)),
        ({"cfact": 0}, Window("raised-cosine", 30, 2, 0.1, flat_top=0.2, hold=10)),
        ({"cfact": 3}, Window("raised-cosine", 30, 2, 0.1, flat_top=0.2, repeats=3)),
        ({"cfact": 4, "rcm": 2}, Window("polynomial", 30, 2, 0.1, flat_top=0.2)),
        ({"m": 0}, Window("raised-cosine", 30, 2, 0.1, half=False, flat_top=0.2)),
        ({"inseq": 1}, Window("raised-cosine", 30, 2, 0.1, flat_top=0.2, sequence="kronecker")),
        ({"rcm": 6}, Window("late-logistic", 30, 2, 0.1, flat_top=0.2)),
        ({"rcm": 0, "tau": 1, "spe": 1}, Constant()),
    ],
)
def test_rc_cfg_entries(changes, expected):
    assert Window.from_rc_cfg(rc(**changes)) == expected
    assert Window.from_rc_cfg(list(rc(**changes))) == expected


@pytest.mark.parametrize("slot", SLOTS)
def test_rc_cfg_entry_out_of_range_raises(slot):
    for bad in SLOTS[slot].refused():
        with pytest.raises(ArgumentError, match=rf"^rc_cfg: {slot} must be .*, got "):
            Window.from_rc_cfg(rc(**{slot: bad}))


@pytest.mark.parametrize("bad", [None, 3, "123456789", rc()[:8], (*rc(), 1), {1: 2}])
def test_rc_cfg_of_wrong_length_raises(bad):
    with pytest.raises(ArgumentError, match="rc_cfg must be a tuple of 9 values"):
        Window.from_rc_cfg(bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": 1, "spe": 1}, r"tau \* spe >= 2, got tau=1, spe=1, cfact=1"),
        ({"tau": 1, "cfact": 0}, "tau >= 2 for cfact 0, got tau=1, spe=10, cfact=0"),
        ({"spe": 1, "cfact": 2}, "spe >= 2 for cfact 2, got tau=3, spe=1, cfact=2"),
    ],
)
def test_window_too_short_raises(changes, message):
    with pytest.raises(ArgumentError, match=message):
        Window.from_rc_cfg(rc(**changes))
