"""A tiny idx data set whose system folder, cache and mirrors are isolated from those of the machine."""

from __future__ import annotations

import gzip
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dashpot.data import idx, loading
from dashpot.data.idx_dataset import IdxFile
from dashpot.data.images import Images
from dashpot.data.published import PublishedDataset
from dashpot.data.warn_once import warn_once
from dashpot.utils.atomic_files import sha256


class RecordingHandler(logging.Handler):
    """Handler that collects log records."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        return "\n".join(record.getMessage() for record in self.records)

    @property
    def levels(self) -> list[str]:
        return [record.levelname for record in self.records]


@pytest.fixture
def logged():
    """Log records of dashpot during the test; pytest's `caplog` is disabled in pyproject.toml."""
    logger, handler = logging.getLogger("dashpot"), RecordingHandler()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@dataclass
class Tiny:
    images: Images
    content: dict[str, bytes]
    dataset: PublishedDataset
    cache: Path

    def write(self, folder: Path, *, compressed: bool = True, omit: str = "") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for key, file in self.dataset.files.items():
            if key != omit:
                name = f"{file.name}.gz" if compressed else file.name
                (folder / name).write_bytes(self.compressed(key) if compressed else self.content[key])
        return folder

    def compressed(self, key: str) -> bytes:
        return gzip.compress(self.content[key], mtime=0)

    def path(self, folder: Path, key: str = "train_labels") -> Path:
        return folder / f"{self.dataset.files[key].name}.gz"

    def equals(self, images: Images) -> bool:
        return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(self.images, images, strict=True))


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> Tiny:
    rng = np.random.default_rng(0)
    images = Images(
        rng.integers(0, 256, (6, 3, 3), dtype=np.uint8),
        rng.integers(0, 10, 6, dtype=np.uint8),
        rng.integers(0, 256, (4, 3, 3), dtype=np.uint8),
        rng.integers(0, 10, 4, dtype=np.uint8),
    )
    content = {key: idx.encode(array) for key, array in images._asdict().items()}
    files = {
        key: IdxFile(key.replace("_", "-"), sha256(raw), sha256(gzip.compress(raw, mtime=0)))
        for key, raw in content.items()
    }
    dataset = PublishedDataset(
        "tiny", "Tiny-MNIST", files, ("tiny", ""), tmp_path / "system", (), "use a different data set"
    )
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    warn_once.cache_clear()
    return Tiny(images, content, dataset, tmp_path / "cache" / "tiny")
