"""Downloading the files of a data set that are missing, each checked against its published checksum."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from dashpot.data.idx_dataset import IdxDataset, IdxFile
from dashpot.errors import DataError

__all__ = ["download"]

_TIMEOUT = (3.0, 30.0)
"""Seconds to wait for a connection, and between two pieces of a file."""


def download(dataset: IdxDataset, keys: Iterable[str], folder: Path) -> dict[str, Path]:
    """Fetch the files `keys` of `dataset` into `folder`; the answer maps each key to its path.

    A file appears in `folder` complete and checked, or not at all; the mirrors are tried in order.

    Raises:
        DataError: pooch is not installed, or no mirror gives a file; the sentence ends in what to do instead.
    """
    return {key: _fetch(dataset, dataset.files[key], folder) for key in keys}


def _fetch(dataset: IdxDataset, file: IdxFile, folder: Path) -> Path:
    try:
        import pooch
    except ImportError as error:
        need = "downloading needs pooch (pip install 'dashpot[data]')"
        raise DataError(f"{dataset.title} is not on this machine and {need}: {dataset.advice}.") from error
    faults: list[str] = []
    cause = None
    for mirror in dataset.mirrors:
        try:
            path = pooch.retrieve(
                f"{mirror}{file.name}.gz",
                known_hash=f"sha256:{file.gzip_sha256}",
                fname=f"{file.name}.gz",
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),  # pyright: ignore[reportArgumentType] - pooch's own
            )
            return Path(path)
        except (OSError, ValueError) as error:  # every error of requests is an OSError; a wrong checksum a ValueError
            faults.append(f"{urlsplit(mirror).netloc}: {_summary(error)}")
            cause = error
    raise DataError(
        f"{dataset.title} is not on this machine and could not be downloaded ({', '.join(faults)}): {dataset.advice}."
    ) from cause


def _summary(error: Exception) -> str:
    """The kind and the status of a network error, whose text runs over many lines; the first sentence of any other."""
    if type(error).__module__.partition(".")[0] != "requests":
        return str(error).partition(". ")[0].rstrip(".")
    response = getattr(error, "response", None)
    if response is None:
        return type(error).__name__
    response.close()  # the error holds the connection open
    return f"{type(error).__name__} {response.status_code}"
