"""Damaged checkpoint files: rejected, or read to the same bits; sizes are checked before allocation."""

from __future__ import annotations

import pickle
import shutil
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from memory_limit import memory_limit

from dashpot.errors import RunError
from dashpot.training import read_newest
from dashpot.training.state.checkpoint_file import DamagedError, read, write

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import damage

STORED = Path(__file__).parents[1] / "golden" / "compat" / "learner" / "step-00000008-00005.ckpt"
"""Checkpoint of format 1."""


@pytest.fixture(params=[damage.checkpoint, damage.first_format], ids=["format2", "format1"])
def file(request, tmp_path) -> Path:
    return request.param(tmp_path / "run.ckpt")


# ---- bits -----------------------------------------------------------------------------------------------------------


def test_damaged_copies_are_rejected_or_read_to_the_same_bits(file):
    found = damage.count(file, read, step=148)
    assert set(found) <= {"rejected", "same"}
    assert found["rejected"] > 100


def test_every_damaged_byte_of_format_2_is_rejected(tmp_path):
    found = damage.count(damage.checkpoint(tmp_path / "run.ckpt"), read, step=145)
    assert set(found) == {"rejected"}


@pytest.mark.parametrize(
    ("offset", "bit"), [(38, 0x10), (10, 0x08), (10, 0x01), (20, 0x01), (24, 0x01), (24, 0x80), (42, 0x01), (8, 0x01)]
)
@pytest.mark.parametrize("make", [damage.checkpoint, damage.first_format, None], ids=["format2", "format1", "stored"])
def test_flipped_bit_in_the_directory_entry_of_a_tensor_is_rejected(tmp_path, make, offset, bit):
    """The entry is marked as a folder (38), compressed (10), or of a different size (20, 24), position or flags."""
    path = tmp_path / "run.ckpt"
    make(path) if make is not None else shutil.copy(STORED, path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    while not content[entry + 46 :].split(b"PK")[0].endswith(b"/data/0"):
        entry = content.index(b"PK\x01\x02", entry + 1)
    content[entry + offset] ^= bit
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"^The checkpoint .*run\.ckpt is damaged: .*\.$"):
        read(path)


@pytest.mark.slow
@pytest.mark.parametrize("make", [damage.checkpoint, damage.first_format], ids=["format2", "format1"])
def test_every_flipped_bit_is_rejected_or_read_to_the_same_bits(tmp_path, make):
    assert set(damage.count(make(tmp_path / "run.ckpt"), read)) <= {"rejected", "same"}


@pytest.mark.parametrize(
    "content", [b"", b"PK", bytes(4096), b"step,loss\n1,2\n", b"\x80\xff" * 99, b"PK\x03\x04" * 99]
)
def test_newest_with_foreign_content_falls_back_to_the_previous_file(tmp_path, content):
    write(tmp_path / "step-00000001-00001.ckpt", {"steps": 1})
    (tmp_path / "step-00000002-00002.ckpt").write_bytes(content)
    with pytest.warns(UserWarning, match=r"00002\.ckpt .* renamed to .*\.damaged, and the previous checkpoint is used"):
        assert read_newest(tmp_path) == {"steps": 1}


def test_newest_with_any_flipped_bit_falls_back_to_the_previous_file(tmp_path):
    write(tmp_path / "step-00000001-00001.ckpt", {"steps": 1})
    newest = tmp_path / "step-00000002-00002.ckpt"
    write(newest, {"steps": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in damage.damaged(newest.read_bytes(), step=101):
            newest.write_bytes(content)
            assert read_newest(tmp_path) == {"steps": 1}
            assert not newest.exists()
            next(tmp_path.glob("*.damaged")).unlink()


def test_checkpoint_of_format_2_without_checksum_is_rejected(file):
    content = torch.load(file, weights_only=True)
    torch.save({**content, "format": 2}, file)
    with pytest.raises(DamagedError, match="its checksum is missing"):
        read(file)


@pytest.mark.parametrize("number", [True, -1, 0, 1.0, None, "1", [1], 10**400])
def test_format_must_be_a_positive_integer(file, number):
    torch.save({**torch.load(file, weights_only=True), "format": number}, file)
    with pytest.raises(DamagedError, match=r"format must be an integer in \[1, 2\*\*31\), got [\w-]+\.$"):
        read(file)


# ---- sizes ----------------------------------------------------------------------------------------------------------

HUGE = 2**31
LIMIT = 2**29


def compressed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, size in (("a/data.pkl", 2**26), ("a/data/0", 2**26), ("a/version", 2)):
            parts.writestr(name, bytes(size))


def claimed(path):
    """Write a directory with sizes of 4 GB."""
    content = bytearray(damage.first_format(path).read_bytes())
    entry = content.index(b"PK\x01\x02")
    while entry >= 0:
        content[entry + 20 : entry + 28] = struct.pack("<2I", 2**32 - 2, 2**32 - 2)
        entry = content.find(b"PK\x01\x02", entry + 1)
    path.write_bytes(content)


class Call:
    def __init__(self, function, *args):
        self.parts = function, args

    def __reduce__(self):
        return self.parts


def meta(path):
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": torch.empty(HUGE, device="meta")}}, path)


def expanded(path):
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": torch.ones(1).expand(HUGE)}}, path)


def byte_array(path):
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": Call(bytearray, HUGE)}}, path)


def memo(path):
    """Write a pickle with a memo index that the C implementation of pickle allocates."""
    with zipfile.ZipFile(path, "w") as parts:
        parts.writestr("a/data.pkl", b"\x80\x02Nr\xff\xff\xff\x7f.")
        parts.writestr("a/version", "3\n")


def repeated(path):
    """Write a list that contains a list twice, which contains a list twice, and so on."""
    value: list = ["w"]
    for _ in range(40):
        value = [value, value]
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": value}}, path)


def deep(path):
    value: list = []
    for _ in range(400):
        value = [value]
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": value}}, path)


@pytest.mark.parametrize(
    "make",
    [pytest.param(compressed, marks=pytest.mark.slow), claimed, meta, expanded, byte_array, memo, repeated, deep],
)
def test_file_that_claims_more_than_it_holds_is_rejected_without_allocation(tmp_path, make):
    make(tmp_path / "run.ckpt")
    assert (tmp_path / "run.ckpt").stat().st_size < 200_000
    with memory_limit(LIMIT), pytest.raises(RunError, match=r"^[^\n]{1,300}\.$"):
        read(tmp_path / "run.ckpt")


@pytest.mark.parametrize("count", [0, 5, 7, HUGE])
def test_storage_of_a_different_size_than_its_part_is_rejected(tmp_path, count):
    path = damage.first_format(tmp_path / "run.ckpt")
    with zipfile.ZipFile(path) as parts:
        content = {name: parts.read(name) for name in parts.namelist()}
    [name] = [name for name in content if name.endswith("data.pkl")]
    content[name] = content[name].replace(b"K\x06tq\x0b", b"J" + struct.pack("<i", min(count, HUGE - 1)) + b"tq\x0b", 1)
    with zipfile.ZipFile(path, "w") as parts:
        for part, data in content.items():
            parts.writestr(zipfile.ZipInfo(part), data)
    with pytest.raises(DamagedError, match=r"is damaged: "):
        read(path)


def test_checkpoint_is_equal_after_reading_in_torch_and_in_dashpot(file):
    assert damage.same(torch.load(file, weights_only=True)["state"], read(file))


def test_code_in_a_checkpoint_is_named(tmp_path):
    torch.save({"format": 1, "dashpot": "0.1.0", "state": {"w": Call(pickle.loads, b"N.")}}, tmp_path / "run.ckpt")
    with pytest.raises(RunError, match=r"contains code \(_?pickle\.loads\); it was rejected"):
        read(tmp_path / "run.ckpt")
