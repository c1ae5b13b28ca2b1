"""Tiny Shakespeare: 1 115 394 characters of Shakespeare's plays, 65 different ones.

Source: Karpathy, char-rnn, 2015; the texts are in the public domain.
"""

from __future__ import annotations

import os

from dashpot.data.loading import load_files
from dashpot.data.published import PublishedDataset, PublishedFile

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

DATASET = PublishedDataset(
    name="tinyshakespeare",
    title="Tiny Shakespeare",
    files={"text": PublishedFile("input.txt", SHA256, size=1_115_394)},
    folders=("tinyshakespeare", ""),
    system=None,
    mirrors=("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",),
    advice=(
        "put data/tinyshakespeare/input.txt of the repository karpathy/char-rnn into the subfolder tinyshakespeare of "
        "a folder, and set --data-dir or DASHPOT_DATA to this folder"
    ),
)
"""The published file and its sources."""


def load(data_dir: str | os.PathLike[str] | None = None) -> str:
    """Load the text from the first available source: the user's folder, the per-user cache, or a download.

    The user's folder is `data_dir` or the environment variable `DASHPOT_DATA`; it may contain `input.txt` directly or
    in `tinyshakespeare/`. A downloaded file is stored in the cache.

    Args:
        data_dir: Folder to search first, or None.

    Raises:
        DataError: If the file is damaged or a different text, or is not found and cannot be downloaded.
    """
    return load_files(DATASET, data_dir)["text"].decode("ascii")
