"""Tiny Shakespeare: 1 115 394 characters of Shakespeare's plays, 65 different ones.

Source: Karpathy, char-rnn, 2015; the texts are in the public domain.
"""

from __future__ import annotations

import os

from dashpot.data.find import user_folder
from dashpot.errors import DataError
from dashpot.utils.atomic_files import sha256

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
FOLDERS = ("tinyshakespeare", "")


def load(data_dir: str | os.PathLike[str] | None = None) -> str:
    """Return the text.

    Args:
        data_dir: Data folder to search first.

    Raises:
        DataError: If the file is damaged, or is not found.
    """
    folder = user_folder(data_dir)
    for name in FOLDERS if folder else ():
        path = folder / name / "input.txt"  # pyright: ignore[reportOptionalOperand]
        if path.is_file():
            content = path.read_bytes()
            if sha256(content) != SHA256:
                raise DataError(f"{path} is damaged: expected sha256 {SHA256}, got {sha256(content)}.")
            return content.decode("ascii")
    raise DataError("Tiny Shakespeare was not found; set --data-dir to a folder with tinyshakespeare/input.txt.")
