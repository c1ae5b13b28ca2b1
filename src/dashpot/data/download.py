"""Download of missing data files, verified against their published checksums."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from dashpot.data.published import PublishedDataset, PublishedFile
from dashpot.errors import DataError

_TIMEOUT = (3.0, 30.0)
"""Connect and read timeouts in seconds."""


def download(dataset: PublishedDataset, keys: Iterable[str], folder: Path) -> dict[str, Path]:
    """Download files of a data set into `folder`, trying the mirrors in order.

    A file appears in `folder` only after it has been downloaded completely and verified.

    Args:
        dataset: The data set.
        keys: Keys of the missing files.
        folder: Destination.

    Returns:
        Path of the downloaded file for each key.

    Raises:
        DataError: If pooch is not installed, or if a file cannot be downloaded from any mirror. The message suggests
            alternatives to a download.
    """
    return {key: _fetch(dataset, dataset.files[key], folder) for key in keys}


def _fetch(dataset: PublishedDataset, file: PublishedFile, folder: Path) -> Path:
    try:
        import pooch
    except ImportError as error:
        install = "pip install 'dashpot[data]' to download it"
        raise DataError(f"{dataset.title} was not found; {install}, or {dataset.advice}.") from error
    failures: list[str] = []
    cause = None
    for mirror in dataset.mirrors:
        try:
            path = pooch.retrieve(
                f"{mirror}{file.download_name}",
                known_hash=f"sha256:{file.gzip_sha256 or file.sha256}",
                fname=file.download_name,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),  # pyright: ignore[reportArgumentType]
            )
            return Path(path)
        except (OSError, ValueError) as error:  # OSError: errors of requests; ValueError: wrong checksums
            failures.append(f"{urlsplit(mirror).netloc}: {_summary(error)}")
            cause = error
    raise DataError(
        f"{dataset.title} was not found, and downloads failed ({', '.join(failures)}); {dataset.advice}."
    ) from cause


def _summary(error: Exception) -> str:
    """Return a short description of an error: type and status of a network error, else the first sentence."""
    if type(error).__module__.partition(".")[0] != "requests":
        return str(error).partition(". ")[0].rstrip(".")
    response = getattr(error, "response", None)
    if response is None:
        return type(error).__name__
    response.close()  # the error keeps the connection open
    return f"{type(error).__name__} {response.status_code}"
