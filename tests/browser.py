"""Pages in a headless browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from processes import LIMIT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="requires Chromium")


def drawn(text: str, folder: Path, action: str = "", width: int = 1000) -> str:
    """Return the document of a page after its script and `action`; fail if the console has a message."""
    file = folder / "page.html"
    file.write_text(f'{text}<script>addEventListener("load", () => {{ {action} }});</script>', encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900"]
    command = [str(BROWSER), *options, f"--user-data-dir={folder}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout
