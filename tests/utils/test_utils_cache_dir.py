from __future__ import annotations

import sys
from pathlib import Path

import pooch
import pytest

from dashpot.utils.cache_dir import cache_folder


@pytest.mark.parametrize("value", [None, "", "/somewhere/cache"])
def test_cache_folder_equals_that_of_pooch(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path(pooch.os_cache("dashpot"))


@pytest.mark.parametrize(
    ("platform", "parts"),
    [("darwin", ("Library", "Caches", "dashpot")), ("win32", ("AppData", "Local", "dashpot", "dashpot", "Cache"))],
)
def test_cache_folder_on_other_platforms(monkeypatch, tmp_path, platform, parts):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert cache_folder() == tmp_path.joinpath(*parts)
