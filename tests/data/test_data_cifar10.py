from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dashpot.data import Images, cifar10, loading
from dashpot.data.cifar10_records import RecordFile, decode, encode
from dashpot.data.find import find, user_folder
from dashpot.data.published import PublishedDataset, PublishedFile
from dashpot.data.warn_once import warn_once
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

COUNT = 4
"""Number of records of a file of the small data set."""

NAMES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]


def drawn(seed: int = 0) -> dict[str, bytes]:
    """Return the content of six small files of records."""
    rng = np.random.default_rng(seed)
    parts = ((rng.integers(0, 256, (COUNT, 3, 32, 32), np.uint8), rng.integers(0, 10, COUNT, np.uint8)) for _ in NAMES)
    return {name: encode(*part) for name, part in zip(NAMES, parts, strict=True)}


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def files(tmp_path, monkeypatch) -> dict[str, bytes]:
    """A published data set of 5 x 4 + 4 images, and an empty cache."""
    files = drawn()
    archive, sums = packed(files), {name: sha256(content) for name, content in files.items()}
    described = {name: RecordFile(name, sums[name], size=COUNT * 3073) for name in NAMES}
    whole = {"archive": PublishedFile("cifar-10-binary.tar.gz", sha256(archive), size=len(archive))}
    folders = (cifar10.FILES.folders, cifar10.ARCHIVE.folders)
    for name, dataset, places in zip(("FILES", "ARCHIVE"), (described, whole), folders, strict=True):
        monkeypatch.setattr(cifar10, name, PublishedDataset("cifar10", "CIFAR-10", dataset, places, None, (), "ADVICE"))
    monkeypatch.setattr(cifar10, "SHA256", sums)
    monkeypatch.setattr(cifar10, "RECORDS", COUNT)
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    warn_once.cache_clear()
    return files


def assert_published(images: Images, files: dict[str, bytes]) -> None:
    contents = [files[name] for name in NAMES]
    for (pixels, labels), expected in (
        ((images.train_images, images.train_labels), b"".join(contents[:-1])),
        ((images.eval_images, images.eval_labels), contents[-1]),
    ):
        assert encode(pixels, labels) == expected
        assert (pixels.dtype, labels.dtype, pixels.shape[1:]) == (np.uint8, np.uint8, (3, 32, 32))


def test_decode_follows_the_published_layout():
    """A label, then the planes of red, green and blue in rows."""
    content = bytes([3]) + bytes(1024) + bytes([7] * 1024) + bytes([0] * 32 + [9]) + bytes(991)
    images, labels = decode(content * 2)
    assert labels.tolist() == [3, 3]
    assert images.shape == (2, 3, 32, 32)
    assert [images[1, channel].sum() for channel in range(3)] == [0, 7 * 1024, 9]
    assert images[1, 2, 1, 0] == 9
    assert encode(images, labels) == content * 2


@pytest.mark.parametrize("folder", ["", "cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
def test_load_from_files_of_the_user_writes_nothing(files, tmp_path, folder):
    write(tmp_path / "mine" / folder, files)
    assert_published(cifar10.load(tmp_path / "mine"), files)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("folder", ["", "cifar10"])
def test_load_from_archive_of_the_user(files, tmp_path, folder):
    write(tmp_path / "mine" / folder, {"cifar-10-binary.tar.gz": packed(files)})
    images, checksums = cifar10.load_with_checksums(tmp_path / "mine")
    assert_published(images, files)
    assert checksums == cifar10.SHA256


def test_load_decodes_archive_of_the_cache_once(files, tmp_path, monkeypatch, logged):
    cache = write(tmp_path / "cache" / "cifar10", {"cifar-10-binary.tar.gz": packed(files)})
    assert_published(cifar10.load(), files)
    (cache / "cifar-10-binary.tar.gz").unlink()
    assert_published(cifar10.load(), files)
    decoded = cache / "decoded.npz"
    content = decoded.read_bytes()
    decoded.write_bytes(content[:3000] + bytes([content[3000] ^ 1]) + content[3001:])
    with pytest.raises(DataError, match=r"^CIFAR-10 was not found; ADVICE\.$"):
        cifar10.load()
    assert [path.name for path in cache.iterdir()] == ["decoded.npz.damaged"]
    assert "is damaged" in logged.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-1], r"it has 12291 bytes, not the 12292 of 4 records"),
        (lambda content: content + b"\0", r"it has 12293 bytes, not the 12292 of 4 records"),
        (lambda content: b"", r"it has 0 bytes"),
        (lambda content: b"\xff" + content[1:], r"it contains the label 255, and labels are 0 to 9"),
        (
            lambda content: content[:1] + bytes([content[1] ^ 1]) + content[2:],
            r"which the option checksum=false accepts",
        ),
    ],
    ids=["truncated", "longer", "empty", "foreign", "other pixel"],
)
@pytest.mark.parametrize("name", [NAMES[0], NAMES[-1]])
def test_load_of_damaged_file_raises_and_leaves_it_unchanged(files, tmp_path, name, change, reason):
    damaged = {**files, name: change(files[name])}
    folder = write(tmp_path / "mine", damaged)
    with pytest.raises(DataError, match=rf"{name} is damaged \(.*{reason}.*expected sha256 \w+, got \w+; it was left"):
        cifar10.load(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == damaged


def test_load_without_checksums_accepts_other_records_and_warns_once(files, tmp_path, logged):
    others = drawn(seed=1)
    folder = write(tmp_path / "mine", others)
    images, checksums = cifar10.load_with_checksums(folder, checksum=False)
    cifar10.load(folder, checksum=False)
    assert_published(images, others)
    assert checksums == {name: sha256(content) for name, content in others.items()}
    assert logged.text.count("other checksums than the published ones") == 1


def test_load_without_checksums_of_published_files_does_not_warn(files, tmp_path, logged):
    write(tmp_path / "mine", files)
    assert_published(cifar10.load(tmp_path / "mine", checksum=False), files)
    assert logged.text == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:-3073], r"data_batch_2.bin is damaged \(it has 9219 bytes"),
        (lambda content: content[:3073] + b"\x0a" + content[3074:], r"data_batch_2.bin is damaged: .* label 10"),
    ],
    ids=["truncated", "foreign"],
)
def test_load_without_checksums_rejects_other_layouts(files, tmp_path, change, reason):
    write(tmp_path / "mine", {**files, NAMES[1]: change(files[NAMES[1]])})
    with pytest.raises(DataError, match=reason):
        cifar10.load(tmp_path / "mine", checksum=False)


def test_load_of_damaged_archive_raises(files, tmp_path):
    write(tmp_path / "mine", {"cifar-10-binary.tar.gz": packed(files)[:-1]})
    for checksum in (True, False):
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is damaged \(it has \d+ bytes, not"):
            cifar10.load(tmp_path / "mine", checksum=checksum)


def test_load_of_incomplete_folder_raises_with_missing_files(files, tmp_path):
    del files["data_batch_3.bin"]
    write(tmp_path / "mine", files)
    with pytest.raises(DataError, match=r"CIFAR-10 in .*mine is incomplete: data_batch_3\.bin is missing\.$"):
        cifar10.load(tmp_path / "mine")


def test_descriptions_have_the_published_sizes():
    """170 052 171 bytes of the archive, and 10 000 records of 3073 bytes in each of six files."""
    assert cifar10.ARCHIVE.files["archive"].size == 170_052_171
    assert [(file.name, file.size) for file in cifar10.FILES.files.values()] == [(name, 30_730_000) for name in NAMES]
    assert len({file.sha256 for file in cifar10.FILES.files.values()}) == 6


@pytest.mark.slow
def test_real_data_set_has_published_class_counts():
    """Also for files with other checksums, whose labels are those of the published files."""
    folder = user_folder(None)
    if folder is None or not find(cifar10.FILES, folder, cifar10.FILES.folders):
        pytest.skip("needs DASHPOT_DATA, a folder with the six files of CIFAR-10")
    images = cifar10.load(folder, checksum=False)
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    assert np.bincount(images.eval_labels).tolist() == [1000] * 10
    # The usual normalization constants of CIFAR-10; images that were compressed again differ in the third decimal.
    means = images.train_images.mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.003)
