"""Removal of passwords from text that is stored or printed."""

from __future__ import annotations

import re


def without_passwords(text: str) -> str:
    """Replace the passwords of all addresses in a text by `***`.

    >>> without_passwords("dashpot compare digits --storage postgresql://me:secret@host/db")
    'dashpot compare digits --storage postgresql://me:***@host/db'
    """
    text = re.sub(r"(\w[\w+.-]*://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|passwd|pwd)=)[^&\s'\"]+", r"\1***", text)
