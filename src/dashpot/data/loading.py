"""Loading of idx data sets from the first available source."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dashpot.data import image_cache
from dashpot.data.download import download
from dashpot.data.find import find, user_folder
from dashpot.data.idx_dataset import IdxDataset, read
from dashpot.data.images import Images
from dashpot.data.warn_once import warn_once
from dashpot.errors import DataError
from dashpot.utils.cache_dir import cache_folder


def load_idx(dataset: IdxDataset, data_dir: str | os.PathLike[str] | None = None) -> Images:
    """Load `dataset` from the first available source: the user's folder, the cache, the system package, or a download.

    Files in the user's folder are verified in every call, so that a damaged file is always reported.

    Raises:
        DataError: As in `dashpot.data.fashion_mnist.load`.
    """
    folder = user_folder(data_dir)
    paths = find(dataset, folder, dataset.folders) if folder is not None else {}
    if paths:
        missing = [file.name for key, file in dataset.files.items() if key not in paths]
        if missing:
            parent = next(iter(paths.values())).parent
            raise DataError(f"{dataset.title} in {parent} is incomplete: {', '.join(missing)} (.gz) is missing.")
        return _read(dataset, paths, in_cache=False)
    cache = cache_folder() / dataset.name
    decoded = cache / "decoded.npz"
    images = image_cache.load(decoded, dataset)
    if images is None:
        images = _load_original(dataset, cache)
        image_cache.store(decoded, images)
    return images


def _load_original(dataset: IdxDataset, cache: Path) -> Images:
    cached = find(dataset, cache)
    if len(cached) == len(dataset.files):
        return _read(dataset, cached, in_cache=True)
    system = find(dataset, dataset.system)
    if len(system) == len(dataset.files):
        return _read(dataset, system, in_cache=False)
    with _writable_folder(cache) as folder:
        fetched = download(dataset, [key for key in dataset.files if key not in cached], folder)
        return _read(dataset, cached | fetched, in_cache=True)


def _read(dataset: IdxDataset, paths: Mapping[str, Path], *, in_cache: bool) -> Images:
    return Images(**{key: read(paths[key], file, in_cache=in_cache) for key, file in dataset.files.items()})


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
