"""Loading of published data sets from the first available source."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dashpot.data import idx, image_cache
from dashpot.data.download import download
from dashpot.data.find import find, user_folder
from dashpot.data.images import Images
from dashpot.data.published import PublishedDataset
from dashpot.data.verified_read import read
from dashpot.data.warn_once import warn_once
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256
from dashpot.utils.cache_dir import cache_folder


def load_files(dataset: PublishedDataset, data_dir: str | os.PathLike[str] | None = None) -> Mapping[str, bytes]:
    """Return the content of the files of `dataset`, by key, from the first available source.

    The sources are the user's folder, the cache, the system package, and a download, in this order. Every file is
    verified in every call.

    Raises:
        DataError: If a file is damaged, the user's folder is incomplete, or the data set is not found and cannot be
            downloaded.
    """
    files = user_files(dataset, data_dir)
    return files if files is not None else _shared_files(dataset)


def user_files(dataset: PublishedDataset, data_dir: str | os.PathLike[str] | None = None) -> Mapping[str, bytes] | None:
    """Return the content of the files of `dataset` in the user's folder, by key, or None if it contains none of them.

    Files are verified in every call, so that a damaged file is always reported.

    Raises:
        DataError: If a file is damaged or the folder is incomplete.
    """
    folder = user_folder(data_dir)
    paths = find(dataset, folder, dataset.folders) if folder is not None else {}
    if not paths:
        return None
    missing = [file for key, file in dataset.files.items() if key not in paths]
    if missing:
        parent, names = next(iter(paths.values())).parent, ", ".join(file.name for file in missing)
        compressed = " (.gz)" if any(file.gzip_sha256 for file in missing) else ""
        verb = "is" if len(missing) == 1 else "are"
        raise DataError(f"{dataset.title} in {parent} is incomplete: {names}{compressed} {verb} missing.")
    return _read(dataset, paths, in_cache=False)


def load_idx(dataset: PublishedDataset, data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Load a data set of four idx files, whose keys are the fields of `Images`, from the first available source.

    Data that are not in the user's folder are decoded once and stored in the cache.

    Raises:
        DataError: As in `load_files`.
    """
    files = user_files(dataset, data_dir)
    if files is None:
        return decoded_once(dataset, _decoded, lambda images: _is_published(images, dataset))
    return _decoded(files)


def decoded_once(
    dataset: PublishedDataset,
    decode: Callable[[Mapping[str, bytes]], Images],
    is_published: Callable[[Images], bool],
) -> Images:
    """Return the images of a data set outside the user's folder, which are decoded once and stored in the cache.

    Args:
        dataset: The data set.
        decode: Function from the content of its files to the images.
        is_published: Function that verifies the checksums of images from the cache.

    Raises:
        DataError: As in `load_files`.
    """
    path = cache_folder() / dataset.name / "decoded.npz"
    images = image_cache.load(path, is_published)
    if images is None:
        images = decode(_shared_files(dataset))
        image_cache.store(path, images)
    return images


def _decoded(files: Mapping[str, bytes]) -> Images:
    return Images(**{key: idx.decode(content) for key, content in files.items()})


def _is_published(images: Images, dataset: PublishedDataset) -> bool:
    return all(sha256(idx.encode(getattr(images, key))) == file.sha256 for key, file in dataset.files.items())


def _shared_files(dataset: PublishedDataset) -> Mapping[str, bytes]:
    """Return the content of the files from the cache, the system package or a download."""
    cache = cache_folder() / dataset.name
    cached = find(dataset, cache)
    if len(cached) == len(dataset.files):
        return _read(dataset, cached, in_cache=True)
    system = find(dataset, dataset.system) if dataset.system is not None else {}
    if len(system) == len(dataset.files):
        return _read(dataset, system, in_cache=False)
    if not dataset.mirrors:
        raise DataError(f"{dataset.title} was not found; {dataset.advice}.")
    with _writable_folder(cache) as folder:
        fetched = download(dataset, [key for key in dataset.files if key not in cached], folder)
        return _read(dataset, cached | fetched, in_cache=True)


def _read(dataset: PublishedDataset, paths: Mapping[str, Path], *, in_cache: bool) -> Mapping[str, bytes]:
    return {key: read(paths[key], file, in_cache=in_cache) for key, file in dataset.files.items()}


@contextmanager
def _writable_folder(folder: Path) -> Iterator[Path]:
    """Yield `folder` if it is writable, otherwise a temporary folder."""
    reason = _write_error(folder)
    if reason is None:
        yield folder
        return
    warn_once(f"Downloads are not cached in {folder} ({reason}).")
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _write_error(folder: Path) -> str | None:
    """Return the reason why `folder` is not writable, or None if it is writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)
