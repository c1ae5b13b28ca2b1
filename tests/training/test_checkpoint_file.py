"""Checkpoint files: exact, atomic, verified, and safe to read."""

from __future__ import annotations

import errno
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

import dashpot as dp
from dashpot.errors import RunError
from dashpot.training.state.checkpoint_file import FORMAT, DamagedError, read, write

STATE = {
    "w": torch.arange(6.0).reshape(2, 3),
    "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
    "whole": torch.tensor([2**40]),
    "complex": torch.tensor([1 + 2j]),
    "text": "zwölf",
    "nested": {"list": [1, 2.5, None, True], "pair": (1, "a"), "bytes": b"\x00", 3: "number", "set": {1, 2}},
    "huge": 2**80,
    "dtype": torch.float16,
}


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.fixture
def file(tmp_path) -> Path:
    write(tmp_path / "run.ckpt", STATE)
    return tmp_path / "run.ckpt"


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


def test_write_read_round_trip(file):
    assert same(read(file), STATE)
    assert list(file.parent.iterdir()) == [file]


def test_file_is_readable_by_torch_load(tmp_path):
    write(tmp_path / "run.ckpt", STATE, {"config": {"lr": 0.1}})
    content = torch.load(tmp_path / "run.ckpt", weights_only=True)
    assert content["format"] == FORMAT
    assert content["dashpot"] == dp.__version__
    assert content["torch"] == torch.__version__
    assert content["config"] == {"lr": 0.1}
    assert content["written"].endswith("+00:00")


def test_write_converts_to_plain_data(tmp_path):
    write(
        tmp_path / "a", {"a": np.float64(0.1), "b": OrderedDict(c=np.int32(3)), "d": torch.nn.Parameter(torch.ones(1))}
    )
    state = read(tmp_path / "a")
    assert same(state, {"a": 0.1, "b": {"c": 3}, "d": torch.ones(1)})


@pytest.mark.parametrize(
    ("bad", "where"),
    [({"a": {"b": [Path("x")]}}, r"got PosixPath at state\.a\.b\[0\]"), ({"f": max}, r"got builtin\w+ at state\.f")],
)
def test_write_rejects_other_types(tmp_path, bad, where):
    with pytest.raises(RunError, match=where):
        write(tmp_path / "a", bad)
    assert not list(tmp_path.iterdir())


def test_read_of_unreadable_paths_raises(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"Checkpoint .*gone\.ckpt"):
        read(tmp_path / "gone.ckpt")
    with pytest.raises(RunError, match=r"Cannot read .*Is a directory"):
        read(tmp_path)

    def closed(*_args, **_options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(RunError, match=r"Cannot read .*Permission denied"):
        read(tmp_path / "run.ckpt")


def test_changed_tensor_is_detected(file):
    content = file.read_bytes()
    index = content.index(torch.arange(6.0).numpy().tobytes())
    file.write_bytes(content[: index + 6] + b"\x01" + content[index + 7 :])
    with pytest.raises(DamagedError, match=r"run\.ckpt is damaged: the checksum of the file does not match"):
        read(file)


@pytest.mark.parametrize("length", [0, 3, 4, 100, 0.5, 0.99, -1])
def test_truncated_file_is_detected(file, length):
    whole = file.read_bytes()
    kept = int(length * len(whole)) if isinstance(length, float) else length
    file.write_bytes(whole[:kept])
    with pytest.raises(DamagedError, match=r"run\.ckpt is damaged"):
        read(file)


def test_checksums_are_written_regardless_of_torch_setting(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        write(tmp_path / "run.ckpt", STATE)
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    test_changed_tensor_is_detected(tmp_path / "run.ckpt")


def make_text(path):
    path.write_text("step,loss\n1,2\n")


def make_zip(path):
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("table.csv", "1,2")


def make_weights(path):
    torch.save({"w": torch.ones(2)}, path)


def make_tensor(path):
    torch.save(torch.ones(2), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_text, "is not a dashpot checkpoint"),
        (make_zip, "is a zip file, but not a dashpot checkpoint"),
        (make_weights, "is a torch file, but not a dashpot checkpoint"),
        (make_tensor, "is a torch file, but not a dashpot checkpoint"),
    ],
)
def test_other_files_are_rejected(tmp_path, make, message):
    make(tmp_path / "thing")
    with pytest.raises(RunError, match=f"thing {message}") as caught:
        read(tmp_path / "thing")
    assert not isinstance(caught.value, DamagedError)


def test_code_is_rejected_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": RunsCode()}}, "a")
    torch.save({"w": RunsCode()}, "b", _use_new_zipfile_serialization=False)
    Path("c").write_bytes(pickle.dumps(RunsCode()))
    for name, message in (
        ("a", r"a contains code \(\w+\.mkdir\); it was rejected and not executed"),
        ("b", "b is a bare pickle, which can contain code; it was rejected and not executed"),
        ("c", "c is a bare pickle"),
    ):
        with pytest.raises(RunError, match=message) as caught:
            read(Path(name))
        assert not isinstance(caught.value, DamagedError)
    assert not Path("exploded").exists()


def test_newer_format_raises(tmp_path):
    torch.save({"format": FORMAT + 1, "dashpot": "7.2.0", "everything": {}}, tmp_path / "run.ckpt")
    with pytest.raises(
        RunError, match=r"got format 3, written by dashpot 7\.2\.0; install that version or a newer one"
    ):
        read(tmp_path / "run.ckpt")


def test_full_disk_keeps_previous_file(file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"Cannot write .*run\.ckpt: No space left on device"):
        write(file, {"w": torch.zeros(3)})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_during_torch_save_raises(tmp_path, monkeypatch):
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, mode="r", **rest: real(Path("/dev/full"), "wb", **rest))
    with pytest.raises(RunError, match=r"Cannot write .*run\.ckpt: No space left on device; completed results"):
        write(tmp_path / "run.ckpt", {"w": torch.zeros(10**6)})


def test_nonfinite_numbers_round_trip(tmp_path):
    write(tmp_path / "a", {"a": math.nan, "b": -math.inf})
    state = read(tmp_path / "a")
    assert math.isnan(state["a"])
    assert state["b"] == -math.inf
