"""Tests without the flush of files to the disk."""

import os

import pytest


@pytest.fixture(scope="module", autouse=True)
def without_flush():
    """Omit the flush of files to the disk, which only matters after a power failure and takes milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
