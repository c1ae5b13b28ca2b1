"""CIFAR-10: 50 000 + 10 000 color images, 32 x 32 pixels, in 10 classes.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009. The SHA-256 checksums are those of
the Ruby library TorchVision; other projects record the same checksums of the archive and of the test images. The
archive has the published MD5 checksum c32a1d4ab5d03f1284b67883e8d87530.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from dashpot.data import cifar10_records
from dashpot.data.archive import members
from dashpot.data.cifar10_records import RECORDS, RecordFile
from dashpot.data.images import Images
from dashpot.data.loading import decoded_once, user_files
from dashpot.data.published import PublishedDataset, PublishedFile
from dashpot.data.warn_once import warn_once
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

SHA256: Mapping[str, str] = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""Published checksums of the files of records; the last file contains the test images."""

_FOLDER = "cifar-10-batches-bin"
_SIZE = 30_730_000
_ADVICE = (
    "set --data-dir or DASHPOT_DATA to a folder with cifar-10-binary.tar.gz or its six .bin files, or use the task "
    "digits, which needs no download"
)

ARCHIVE = PublishedDataset(
    name="cifar10",
    title="CIFAR-10",
    files={
        "archive": PublishedFile(
            "cifar-10-binary.tar.gz",
            sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            size=170_052_171,
        )
    },
    folders=("cifar10", ""),
    system=None,
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
    advice=_ADVICE,
)
"""The published archive, which contains the files of records."""

FILES = PublishedDataset(
    name="cifar10",
    title="CIFAR-10",
    files={name: RecordFile(name, sha256=checksum, size=_SIZE) for name, checksum in SHA256.items()},
    folders=("cifar10", _FOLDER, f"cifar10/{_FOLDER}", ""),
    system=None,
    mirrors=(),
    advice=_ADVICE,
)
"""The files of records in the user's folder."""


def load(data_dir: str | os.PathLike[str] | None = None, *, checksum: bool = True) -> Images:
    """Load CIFAR-10 from the first available source.

    The sources are tried in this order: the user's folder, i.e. `data_dir` or the environment variable `DASHPOT_DATA`;
    the per-user cache; a download. The user's folder may contain the six files of the binary version directly, in
    `cifar10/`, in `cifar-10-batches-bin/` or in `cifar10/cifar-10-batches-bin/`, or the published archive
    `cifar-10-binary.tar.gz` directly or in `cifar10/`. A downloaded archive is decoded once, and the decoded data are
    stored in the cache.

    Args:
        data_dir: Folder to search first, or None.
        checksum: If False, also accept files of the binary version in the user's folder that have other checksums than
            the published ones, such as images that were compressed again. A warning is logged once for such files.

    Returns:
        Images of shape (50000, 3, 32, 32) and (10000, 3, 32, 32) with values 0 to 255, and their labels 0 to 9.

    Raises:
        DataError: If a file is damaged, the user's folder is incomplete, or the data set is not found and cannot be
            downloaded.
    """
    return load_with_checksums(data_dir, checksum=checksum)[0]


def load_with_checksums(
    data_dir: str | os.PathLike[str] | None = None, *, checksum: bool = True
) -> tuple[Images, Mapping[str, str]]:
    """Return the result of `load` and the SHA-256 checksum of each file of records, by file name."""
    files = user_files(FILES if checksum else _unverified(FILES), data_dir)
    if files is None:
        archive = user_files(ARCHIVE, data_dir)
        return decoded_once(ARCHIVE, _unpacked, _is_published) if archive is None else _unpacked(archive), SHA256
    actual = {name: sha256(content) for name, content in files.items()}
    if actual != SHA256:
        warn_once(
            "The files of CIFAR-10 have other checksums than the published ones, so that results are not comparable "
            "with published results."
        )
    return _decoded(files), actual


def _unverified(dataset: PublishedDataset) -> PublishedDataset:
    files = {name: dataclasses.replace(file, sha256=None) for name, file in dataset.files.items()}
    return dataclasses.replace(dataset, files=files)


def _is_published(images: Images) -> bool:
    pixels = np.concatenate([images.train_images, images.eval_images])
    labels = np.concatenate([images.train_labels, images.eval_labels])
    parts = (slice(start, start + RECORDS) for start in range(0, len(labels), RECORDS))
    checksums = [sha256(cifar10_records.encode(pixels[part], labels[part])) for part in parts]
    return checksums == list(SHA256.values())


def _unpacked(files: Mapping[str, bytes]) -> Images:
    names = [f"{_FOLDER}/{name}" for name in SHA256]
    contents = members(files["archive"], names, owner="cifar-10-binary.tar.gz")
    return _decoded({name.removeprefix(f"{_FOLDER}/"): content for name, content in contents.items()})


def _decoded(files: Mapping[str, bytes]) -> Images:
    parts = [_records(name, files[name]) for name in SHA256]
    images, labels = zip(*parts, strict=True)
    return Images(np.concatenate(images[:-1]), np.concatenate(labels[:-1]), images[-1].copy(), labels[-1].copy())


def _records(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        return cifar10_records.decode(content)
    except ValueError as error:
        raise DataError(f"{name} is damaged: {error}.") from error
