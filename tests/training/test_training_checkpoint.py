"""Checkpoints: exact, atomic, harmless to load."""

from __future__ import annotations

import errno
import os
import pickle

import pytest
import torch
from torch import nn

import dashpot
from dashpot.errors import RunError
from dashpot.training import load_checkpoint, save_checkpoint
from dashpot.training.files import append_line, make_folder, write_text


def trained(steps: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = dashpot.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_everything_comes_back_exactly(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path / "run.ckpt", model, optimizer, {"epochs": 3, "bytes": 17})
    following = torch.randn(4)
    other, other_optimizer = trained(steps=0)
    assert load_checkpoint(tmp_path / "run.ckpt", other, other_optimizer) == {"epochs": 3, "bytes": 17}
    assert torch.equal(torch.randn(4), following)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[mine].items():
            assert torch.equal(torch.as_tensor(other_optimizer.state[theirs][key]), torch.as_tensor(value))


def test_a_full_disk_keeps_the_previous_checkpoint_and_leaves_nothing_behind(tmp_path, monkeypatch):
    model, optimizer = trained()
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, model, optimizer, {"epochs": 1})
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="No space left on device"):
        save_checkpoint(path, model, optimizer, {"epochs": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x80\x04." + b[3:]])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    model, optimizer = trained()
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, model, optimizer, {})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"run\.ckpt is damaged"):
        load_checkpoint(path, model, optimizer)


def test_a_checkpoint_of_another_model_or_a_missing_one_is_refused(tmp_path):
    model, optimizer = trained()
    save_checkpoint(tmp_path / "run.ckpt", model, optimizer, {})
    other = nn.Linear(2, 2)
    with pytest.raises(RunError, match="of another run"):
        load_checkpoint(tmp_path / "run.ckpt", other, dashpot.AdamW(other.parameters()))
    with pytest.raises(RunError, match=r"gone\.ckpt"):
        load_checkpoint(tmp_path / "gone.ckpt", model, optimizer)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Bomb()}, tmp_path / "run.ckpt")
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(tmp_path / "run.ckpt", *trained())
    (tmp_path / "raw.ckpt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match="damaged"):
        load_checkpoint(tmp_path / "raw.ckpt", *trained())
    assert not (tmp_path / "exploded").exists()


def test_lines_are_appended_and_the_length_is_told(tmp_path):
    path = tmp_path / "record"
    assert append_line(path, "one") == 4
    assert append_line(path, "zwölf") == path.stat().st_size
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"


def test_what_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Cannot write .*file/inside"):
        make_folder(tmp_path / "file" / "inside")
    with pytest.raises(RunError, match=r"Cannot write .*missing"):
        append_line(tmp_path / "missing" / "record", "line")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RunError, match="what was finished before is kept"):
        append_line(tmp_path / "record", "line")
    with pytest.raises(RunError, match="No space left"):
        write_text(tmp_path / "text", "text")
    assert not (tmp_path / "text").exists()
