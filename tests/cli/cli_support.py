"""What the tests of the command line look for."""

from __future__ import annotations

from pathlib import Path


def refused(result: tuple[int, str, str]) -> str:
    """The one sentence of a refused command, which wrote nothing."""
    code, _, err = result
    assert code == 2
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("runs").exists()
    return err.strip()
