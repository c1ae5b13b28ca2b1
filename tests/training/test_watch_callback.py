"""The callback `Watch` and the file of its measurements."""

import json

import pytest
import torch

import dashpot as dp
from dashpot import tasks
from dashpot.errors import ArgumentError, RunError
from dashpot.runs.watch_file import WatchFile, read_watch_file
from dashpot.training import Accumulate, Callback, Engine, Learner, Watch
from dashpot.watching.probe import Probe
from dashpot.watching.series import WatchRecord


class Losses(Probe):
    """Compare the closure and the sliced losses with the loss of the batch."""

    kind, every, always = "losses", 5, True

    def before_step(self, watcher, moment):
        whole = moment.closure()
        half = moment.examples // 2
        parts = [moment.sliced(0, half), moment.sliced(half, moment.examples)]
        mean = (half * parts[0] + (moment.examples - half) * parts[1]) / moment.examples
        row = {
            "loss": float(moment.loss),
            "closure": float(whole.detach()),
            "parts": float(mean.detach()),
            "size": moment.size,
        }
        watcher.record.add(self.kind, {"step": moment.step, **row})


def learner_of(optimizer=dp.AdamW, **options):
    return Learner.of(tasks.get("digits").build(0), optimizer, lr=0.01, engine=Engine("cpu"), **options)


def linear_learner():
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(9, 4, generator=generator), torch.randn(9, 2, generator=generator)) for _ in range(12)]
    model = torch.nn.Linear(4, 2)
    return Learner(model, batches, loss=torch.nn.functional.mse_loss, optimizer=dp.SGD, lr=0.1, engine=Engine("cpu"))


class WithLosses(Watch):
    def before_fit(self, learner):
        super().before_fit(learner)
        self.watcher.probes.append(Losses())


def test_closure_and_slices_return_the_loss_of_the_batch():
    callback = WithLosses(budget=1.0)
    linear_learner().fit(1, callbacks=[callback])
    rows = callback.watcher.record.rows("losses").rows
    assert [row["step"] for row in rows] == [1, 6, 11]
    for row in rows:
        assert row["closure"] == row["loss"]
        assert row["parts"] == pytest.approx(row["loss"], rel=1e-5)  # float32 sums in a different order


def test_accumulation_gives_the_mean_loss_and_the_size_of_the_step():
    callback, losses = WithLosses(budget=1.0), []

    class Collect(Callback):
        def after_loss(self, learner):
            losses.append(float(learner.batch.loss.detach()))

    linear_learner().fit(1, callbacks=[Accumulate(2), callback, Collect()])
    [first, *_] = callback.watcher.record.rows("losses")
    assert first["loss"] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-6)  # float32
    assert first["closure"] == losses[1]
    assert first["size"] == 18


def test_watching_does_not_change_the_fit():
    weights = []
    for callbacks in ([], [WithLosses(budget=1.0)]):
        learner = learner_of()
        learner.fit(steps=20, callbacks=callbacks, evaluate=False)
        weights.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*weights)


def test_scalars_are_logged():
    learner = learner_of()
    learner.fit(steps=12, evaluate_every=12, callbacks=[Watch(budget=1.0)])
    assert 0 < learner.history[0]["train"]["update_ratio"] < 1


def test_a_file_contains_the_record(tmp_path):
    callback = Watch(budget=1.0, path=tmp_path / "watch.jsonl")
    learner_of().fit(steps=12, evaluate=False, callbacks=[callback])
    read = read_watch_file(tmp_path / "watch.jsonl")
    assert read.to_dict()["series"]["norms"] == callback.watcher.record.to_dict()["series"]["norms"]
    assert read.header["optimizer"] == "AdamW"


def test_a_resumed_fit_continues_the_file(tmp_path):
    path = tmp_path / "watch.jsonl"
    learner = learner_of()
    learner.fit(1, callbacks=[Watch(budget=1.0, path=path)])
    state = learner.state_dict()
    learner.fit(2, callbacks=[Watch(budget=1.0, path=path)], resume=state)
    steps = [row["step"] for row in read_watch_file(path).rows("norms")]
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    assert steps[-1] > 30


def test_incomplete_last_line_is_ignored_and_damaged_line_raises(tmp_path):
    path = tmp_path / "watch.jsonl"
    path.write_text('{"kind":"header","format":1}\n{"series":"norms","step":1,"loss":"nan"}\n{"kind":"no')
    [row] = read_watch_file(path).rows("norms")
    assert (row["loss"], row["reason"]) == (None, "Not finite: loss.")
    for text in ("", "[]\n", '{"kind":"header","format":2}\n', '{"kind":"header","format":1}\n{"series":"norms"}\n'):
        path.write_text(text)
        with pytest.raises(RunError, match="is damaged"):
            read_watch_file(path)
    with pytest.raises(RunError, match="was not watched; train it with --watch"):
        read_watch_file(tmp_path / "missing.jsonl")


def test_the_size_of_a_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("dashpot.runs.watch_file.LARGEST", 40_000)
    record = WatchRecord({"optimizer": "SGD"})
    file = WatchFile(tmp_path / "watch.jsonl", record)
    file.start()
    for step in range(1, 1500):
        record.add("norms", {"step": step, "text": "x" * 20})
        file.write()
    assert file.path.stat().st_size <= 40_000
    lines = file.path.read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 1499


def test_bad_settings_raise():
    with pytest.raises(ArgumentError, match=r"watch: budget must be a number in \(0, 1\], got 2.0"):
        linear_learner().fit(1, callbacks=[Watch(budget=2.0)])


def test_several_optimizers_without_binding_raise():
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(1, 1), "b": torch.nn.Linear(1, 1)})
    losses = {"a": torch.nn.functional.mse_loss, "b": torch.nn.functional.mse_loss}
    batches, optimizers = [(torch.ones(2, 1), torch.ones(2, 1))], dict.fromkeys(losses, dp.SGD)
    learner = Learner(model, batches, loss=losses, optimizer=optimizers, lr=0.1, engine=Engine("cpu"))
    with pytest.raises(ArgumentError, match="Watch: bind the callback to one of the optimizers by ForOptimizer"):
        learner.fit(1, callbacks=[Watch()])


def test_warnings_of_the_last_steps_are_printed(capsys):
    learner, callback = linear_learner(), Watch(budget=1.0)

    class Overflow(Callback):
        def after_backward(self, learner):
            if learner.steps == 10:  # the last step
                learner.model.weight.grad.fill_(torch.inf)

    learner.fit(steps=11, callbacks=[callback, Overflow()])
    assert "Step 11: " in capsys.readouterr().err
    assert [row["step"] for row in callback.watcher.warnings] == [11]
