"""The benchmarks, run at a small size and without timing."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import background_load  # noqa: E402
import cases  # noqa: E402
import first_step  # noqa: E402
import memory  # noqa: E402
import processor  # noqa: E402
import sets  # noqa: E402
import step  # noqa: E402
import table  # noqa: E402
import timing  # noqa: E402

pytestmark = pytest.mark.needs_compiler

TOY = [(4, 3), (5,)]
EVERY = [*cases.TARGETS, *cases.OTHERS]


def name(case):
    return f"{case.title()} on {case.tensors}"


OTHERS_WARNINGS = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[OTHERS_WARNINGS] if c.package else [], id=name(c)) for c in EVERY]
)
def test_both_sides_of_each_row_step_every_tensor(case):
    if not case.installed():
        pytest.skip(f"{case.package} is not installed")
    ours, theirs = cases.parameters(TOY, case.dtype, 2)
    timing.check_steps(case.ours(ours), ours)
    timing.check_steps(case.reference(theirs), theirs)


def test_step_without_effect_is_detected():
    (params,) = cases.parameters(TOY, torch.float32, 1)
    with pytest.raises(RuntimeError, match=r"Idle: 2 of 2 tensors did not move"):
        timing.check_steps(type("Idle", (), {"step": lambda self: None})(), params)


def test_copies_are_equal_and_separate():
    first, second = cases.parameters(TOY, torch.float32, 2)
    for p, q in zip(first, second, strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
        assert len({x.data_ptr() for x in (p, q, p.grad, q.grad)}) == 4


def test_benchmark_tensors_have_documented_sizes():
    sizes = {name: [torch.Size(shape).numel() for shape in shapes] for name, shapes in cases.SHAPES.items()}
    assert sum(sizes[cases.LARGE]) == 25_217_024
    assert (len(sizes[cases.MANY]), min(sizes[cases.MANY]), max(sizes[cases.MANY])) == (1000, 64, 4096)
    assert [len(sizes[name]) for name in (cases.NETWORK, cases.TRANSFORMER, cases.TEN)] == [18, 30, 10]
    assert [len(sizes[name]) for name in (cases.MIDDLE, cases.GROUPS)] == [300, 2000]
    assert set(sizes[cases.TEN]) == {1000}
    assert {c.tensors for c in EVERY} == set(sizes)


def test_changing_set_keeps_its_size():
    (params,) = cases.parameters([(2,)] * 9, torch.float32, 1)
    stepped = []
    rotating, fixed = sets.Rotating(params, shift=7), sets.Rotating(params, shift=0)
    for stepper in (rotating, rotating, fixed, fixed):
        stepper.prepare()
        stepped.append({i for i, p in enumerate(params) if p.grad is not None})
    assert stepped == [{7, 8, 0, 1, 2, 3}, {5, 6, 7, 8, 0, 1}, {*range(6)}, {*range(6)}]


def test_each_parameter_has_its_own_group():
    (params,) = cases.parameters([(2,)] * 4, torch.float32, 1)
    equal, spread = (sets.grouped(params, torch.optim.AdamW, spread=s).param_groups for s in (False, True))
    assert [len(group["params"]) for group in equal] == [1] * 4
    assert len({group["lr"] for group in equal}) == 1
    assert len({group["lr"] for group in spread}) == 4


@pytest.mark.parametrize(
    ("make", "dtype", "per_parameter"),
    [
        (cases.fused, torch.float32, None),
        (cases.adamw, torch.float32, 28),  # weight and two moments read and written, gradient read
        (cases.halved, torch.float32, 20),
        (cases.kahan, torch.bfloat16, 18),
        (cases.sgd, torch.float32, 20),
        (lambda p: cases.adamw(p, max_norm=1.0), torch.float32, 32),  # gradient read twice
        (lambda p: cases.adamw(p, engine="eager"), torch.float32, None),
    ],
)
def test_bytes_per_parameter_follow_from_kernel_passes(make, dtype, per_parameter, monkeypatch):
    monkeypatch.setenv("DASHPOT_ENGINE", "auto")
    (params,) = cases.parameters(TOY, dtype, 1)
    stepper = make(params)
    stepper.step()
    expected = None if per_parameter is None else per_parameter * 17
    assert cases.moved(stepper) == expected


def test_ratio_is_median_over_rounds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    class taking:  # noqa: N801
        def __init__(self, durations):
            self.each = iter(durations)

        def prepare(self):
            now[0] += 100.0  # not timed

        def step(self):
            now[0] += next(self.each)

    theirs, ours = [1.0, 2.0, 4.0] * 3, [2.0, 2.0, 2.0] * 3
    found = timing.rounds(taking(theirs), taking(ours), budget=0.0)
    assert (found.value, found.rounds) == (1.0, timing.FEWEST)
    assert (found.low, found.high) == (0.5, 2.0)
    assert (found.ours, found.theirs) == (2.0, 2.0)


def test_early_steps_use_fresh_optimizers_and_exclude_first(monkeypatch):
    monkeypatch.setattr(timing, "timed", lambda stepper: stepper.step())

    def counting(factor):
        counts = iter(range(1, timing.EARLY + 1))
        return lambda params: SimpleNamespace(step=lambda: factor * next(counts))

    case = cases.ADAMW._replace(ours=counting(3.0), reference=counting(1.0), early=True)
    found = timing.early(case, TOY, budget=0.0)
    assert (found.value, found.rounds, found.theirs) == (3.0, 49, 26.0)  # 26: the median of 2 to 50


def test_avx2_only_applies_to_both_sides(monkeypatch):
    monkeypatch.setenv("CXX", "ccache g++")
    monkeypatch.delenv(processor.CAPABILITY, raising=False)
    told = processor.narrowed("/kernels")
    assert (told[processor.CAPABILITY], told["CXX"], told["DASHPOT_CACHE"]) == (
        "avx2",
        "ccache g++ -mno-avx512f",
        "/kernels",
    )
    assert "AVX2 only" not in processor.stamp()
    monkeypatch.setenv(processor.CAPABILITY, told[processor.CAPABILITY])
    assert "AVX2 only" in processor.stamp()


def test_tables_state_conditions():
    ratio = timing.Ratio(1.05, 1.0, 1.1, 0.010, 0.0095, 99)
    rows = [timing.Row(case, 1_000_000, 28_000_000, {1: ratio}) for case in EVERY if case.installed()]
    text = table.steps(rows, 1, 5.6e9, 11.2e9, targets=True)
    large = next(line for line in text.splitlines() if line.startswith("| dashpot AdamW |"))
    assert "| 1.10 | 1.00 | 1.05 | 1.00 to 1.10 | must | 10 | 9.5 | 28 | 2.8 | 50% | 25% |" in large
    assert len(text.splitlines()) == len(rows) + 2
    assert "**missed**" in table.memories({"dashpot AdamW": 5.0})
    firsts = table.firsts({"AdamW": first_step.First(0.1, 1.1, 0.04), first_step.AUTOSGM: first_step.First(0, 2, 0.2)})
    assert "| 1200 | 500 | 1100 | must |" in firsts
    assert "| 100 | 50 | 40 | aim |" in firsts
    assert "|  |  | 2000 |  |" in firsts  # limits exist only for AdamW


@pytest.mark.skipif(not memory.measured(), reason="needs Linux with glibc")
def test_extra_memory_counts_only_the_step():
    class Greedy:
        def __init__(self, params):
            pass

        def step(self):
            torch.ones(4 << 20)  # 16 MiB

    extra = memory.extra_here(Greedy, TOY, torch.float32)
    assert extra == pytest.approx(16, abs=1)
    assert all(make(cases.parameters(TOY, dtype, 1)[0]) for make, dtype in memory.SUBJECTS.values())


@pytest.mark.parametrize("name", first_step.SUBJECTS)
def test_first_step_and_import_are_timed(name):
    found = first_step.first_here(name, TOY)
    assert found["step"] > 0
    assert found["cpu"] > 0
    assert found["import"] >= 0


def test_background_load_excludes_own_process():
    load = background_load.BackgroundLoad()
    load.load = 0.0
    assert load.cores() >= 0
    load._busy = None  # /proc/stat is not available
    assert load.warning() is None
    load.load = 3.0
    assert "noise" in load.warning()


def test_tables_in_page_are_replaced(tmp_path, monkeypatch):
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{step.SECTION.begin}\nold\n{step.SECTION.end}\nafter\n")
    monkeypatch.setattr(step, "sections", lambda options: ["new", "newer"])
    monkeypatch.setenv("DASHPOT_ENGINE", "eager")
    step.main(["--write", str(page)])
    assert page.read_text() == f"before\n{step.SECTION.begin}\n\nnew\n\nnewer\n\n{step.SECTION.end}\nafter\n"


def test_page_without_markers_is_rejected_before_measuring(tmp_path):
    page = tmp_path / "other.md"
    page.write_text("nothing here\n")
    with pytest.raises(SystemExit, match="must contain the lines"):
        step.main(["--write", str(page)])


@pytest.mark.parametrize("part", [["--avx2"], ["--only", "SGD"]])
def test_partial_tables_are_not_written(part, tmp_path, capsys):
    with pytest.raises(SystemExit):
        step.main([*part, "--write", str(tmp_path / "page.md")])
    assert "--write records all tables" in capsys.readouterr().err
