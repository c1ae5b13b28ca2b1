"""Removal of passwords from text that is stored or printed."""

from __future__ import annotations

import re

_USER = r"([\w+.-]+://[^:/@\s'\"]*):"
_URL = re.compile(_USER + ".*@", re.DOTALL)
_QUOTED = re.compile(rf"(?<=['\"]){_USER}[^'\"]*@")
_WORD = re.compile(_USER + r"\S*@")
_OPTION = re.compile(r"([?&](?:password|passwd|pwd|sslpassword)=)[^&\s'\"]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Replace the passwords of all addresses in a text by `***`.

    >>> without_passwords("dashpot compare digits --storage postgresql://me:secret@host/db")
    'dashpot compare digits --storage postgresql://me:***@host/db'
    """
    if _URL.match(text) and not re.search(r"\s\S*://", text):  # one address, whose password may contain spaces
        text = _URL.sub(r"\1:***@", text)
    else:
        text = _WORD.sub(r"\1:***@", _QUOTED.sub(r"\1:***@", text))
    return _OPTION.sub(r"\1***", text)
