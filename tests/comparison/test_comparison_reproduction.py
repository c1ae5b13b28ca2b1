"""Published table: settings of the rows, and reproduction of the table on a small task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from study_support import build, toy

import dashpot
from dashpot import tasks
from dashpot.comparison import Entry, read_run
from dashpot.comparison.published import ROWS
from dashpot.comparison.reproduction import PROTOCOL, reproduce
from dashpot.data import Images, fashion_mnist
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem
from dashpot.training import train

LAST_ACCURACY = {"A2": 0.869, "B": 0.866, "C": 0.822, "D": 0.868, "E": 0.877, "F": 0.884, "G": 0.899}


def optimizer_of(key: str, params, steps: int) -> torch.optim.Optimizer:
    row = ROWS[key]
    return Entry(key, row.make, row.lr, row.options, row.schedule).optimizer(params, steps)


def trajectory(optimizer: torch.optim.Optimizer, w: torch.Tensor, steps: int) -> list[np.ndarray]:
    """Return the weights after each step on a fixed sequence of gradients."""
    draw = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(steps):
        w.grad = torch.randn(w.shape, generator=draw, dtype=w.dtype)
        optimizer.step()
        seen.append(w.detach().numpy().copy())
    return seen


def gradients(steps: int, size: int) -> list[np.ndarray]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=draw, dtype=torch.float64).numpy() for _ in range(steps)]


def weight() -> torch.Tensor:
    return torch.ones(3, dtype=torch.float64, requires_grad=True)


def test_rows_have_the_published_results():
    assert list(ROWS) == list(LAST_ACCURACY)
    assert {key: row.figures[-1][2] for key, row in ROWS.items()} == LAST_ACCURACY
    assert [row.epochs for row in ROWS.values()] == [5, 3, 3, 3, 3, 3, 6]


class FromEpoch:
    """Stream of batches that starts at a later epoch."""

    def __init__(self, stream, first):
        self.stream, self.first = stream, first

    def __len__(self):
        return len(self.stream)

    def epoch(self, number):
        return self.stream.epoch(self.first + number)


def test_row_a2_equals_a1_resumed_with_new_optimizer_and_quarter_lr():
    ours, theirs = build(0), build(0)
    torch.manual_seed(0)
    train(ours, optimizer_of("A2", ours.model.parameters(), 20), 5)
    torch.manual_seed(0)
    train(theirs, torch.optim.SGD(theirs.model.parameters(), lr=0.2), 3)
    theirs.train = FromEpoch(theirs.train, 3)
    train(theirs, torch.optim.SGD(theirs.model.parameters(), lr=0.05), 2)
    for mine, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        # In float32, 0.25 * 0.2 has one more rounding error than 0.05.
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_row_b_averages_gradients_from_zero():
    w = weight()
    m, expected, steps = np.zeros(3), np.ones(3), []
    for g in gradients(20, 3):
        m = 0.9 * m + 0.1 * g
        expected = expected - 1.25 * m
        steps.append(expected)
    np.testing.assert_allclose(trajectory(optimizer_of("B", [w], 20), w, 20), steps, rtol=1e-12)


def test_row_c_starts_from_first_square_without_bias_correction():
    w = weight()
    s, expected, steps = None, np.ones(3), []
    for g in gradients(20, 3):
        s = g * g if s is None else 0.99 * s + 0.01 * g * g
        expected = expected - 1e-2 * g / (np.sqrt(s) + 1e-5)
        steps.append(expected)
    np.testing.assert_allclose(trajectory(optimizer_of("C", [w], 20), w, 20), steps, rtol=1e-12)


def test_row_d_has_eps_inside_the_root_and_bias_corrections():
    w = weight()
    m, s, expected, steps = np.zeros(3), np.zeros(3), np.ones(3), []
    for t, g in enumerate(gradients(20, 3), start=1):
        m, s = 0.9 * m + 0.1 * g, 0.99 * s + 0.01 * g * g
        expected = expected - 1e-2 * (m / (1 - 0.9**t)) / np.sqrt(s / (1 - 0.99**t) + 1e-5)
        steps.append(expected)
    np.testing.assert_allclose(trajectory(optimizer_of("D", [w], 20), w, 20), steps, rtol=1e-12)


def scheduled(key: str, steps: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.Tensor]:
    """Return the torch optimizer and the scheduler of a table row, and the weight that they train."""
    w = weight()
    if key == "E":
        optimizer = torch.optim.Adam([w], lr=1e-2)
        return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), w
    optimizer = torch.optim.AdamW([w], lr=ROWS[key].lr, weight_decay=1e-2)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, ROWS[key].lr, total_steps=steps), w


@pytest.mark.parametrize("key", ["E", "F", "G"])
def test_scheduled_rows_match_torch(key):
    steps = 40
    w = weight()
    ours = trajectory(optimizer_of(key, [w], steps), w, steps)
    reference, scheduler, v = scheduled(key, steps)
    theirs = []
    for g in gradients(steps, 3):
        v.grad = torch.from_numpy(g)
        reference.step()
        scheduler.step()
        theirs.append(v.detach().numpy().copy())
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.fixture
def toy_task(monkeypatch):
    """Replace Fashion-MNIST by the toy task, and return a list that collects the seeds of the problems built."""
    built = []

    def counted(seed: int) -> Problem:
        built.append(seed)
        return build(seed)

    monkeypatch.setattr(tasks, "get", lambda name, data_dir, validation_size: toy(name=name, build=counted))
    return built


def test_reproduce_writes_results_published_values_and_provenance(tmp_path, toy_task):
    logged: list[str] = []
    command = "dashpot reproduce fashion-mnist"
    path = reproduce(tmp_path / "out", ["B", "E"], seeds=2, log=logged.append, command=command)
    text = path.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith(("| B", "| E"))]
    assert len(rows) == 6
    assert rows[0].count("|") == 8
    assert "0.590 (1.788)" in rows[0]
    assert " ± " in rows[0]
    for part in (
        "`dashpot reproduce fashion-mnist`",
        f"torch {torch.__version__}",
        "Machine: ",
        "Date: 20",
        "over 2 seeds",
    ):
        assert part in text
    assert logged[0] == PROTOCOL
    assert PROTOCOL in text
    assert logged[1] == "Row B: EMA momentum 0.9, lr 1.25"
    assert len(logged) == 5


def test_reproduce_does_not_repeat_finished_runs(tmp_path, toy_task):
    first = reproduce(tmp_path / "out", ["C"], seeds=1, log=lambda _: None).read_text(encoding="utf-8")
    toy_task.clear()
    assert reproduce(tmp_path / "out", ["C"], seeds=1, log=lambda _: None).read_text(encoding="utf-8") == first
    assert toy_task == [0, 0]  # two problems are built, only to compare the settings


def test_reproduce_rejects_unknown_row_before_loading_data(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "get", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ArgumentError, match="Unknown row 'Z'"):
        reproduce(tmp_path / "out", ["Z"])


def test_rows_use_dashpot_optimizers():
    for key, row in ROWS.items():
        assert isinstance(optimizer_of(key, [weight()], 10), dashpot.Optimizer), row.label


def test_reproduce_trains_on_all_images_and_evaluates_every_epoch_on_the_test_images(tmp_path, monkeypatch):
    """The published runs have no validation data; row A2 has five epochs."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (60, 28, 28), dtype=np.uint8), rng.integers(0, 10, 60, dtype=np.uint8)
    monkeypatch.setattr(
        fashion_mnist, "load", lambda data_dir: Images(pixels[:50], labels[:50], pixels[50:], labels[50:])
    )
    reproduce(tmp_path / "out", ["A2"], seeds=1, log=lambda _: None)
    [run] = [read_run(path) for path in (tmp_path / "out" / "A2").rglob("*seed0.jsonl")]
    assert "validation_size" not in run.task
    assert len(run.epochs) == len(run.loss) == 5, "one batch of 50 images in each epoch"
