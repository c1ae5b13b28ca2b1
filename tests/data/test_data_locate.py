from __future__ import annotations

import sys
from pathlib import Path

import pooch
import pytest

from dashpot.data.find import find, user_folder
from dashpot.errors import DataError
from dashpot.utils.cache_dir import cache_folder


@pytest.mark.parametrize("value", [None, "", "/somewhere/cache"])
def test_the_cache_is_where_pooch_would_put_it(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path(pooch.os_cache("dashpot"))


@pytest.mark.parametrize(
    ("platform", "parts"),
    [("darwin", ("Library", "Caches", "dashpot")), ("win32", ("AppData", "Local", "dashpot", "dashpot", "Cache"))],
)
def test_the_cache_of_other_systems(monkeypatch, tmp_path, platform, parts):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert cache_folder() == tmp_path.joinpath(*parts)


def test_the_argument_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    assert user_folder(None) is None
    environment, argument = tmp_path / "environment", tmp_path / "argument"
    environment.mkdir()
    argument.mkdir()
    monkeypatch.setenv("DASHPOT_DATA", str(environment))
    assert user_folder(None) == environment
    assert user_folder(argument) == user_folder(str(argument)) == argument


def test_a_named_folder_that_cannot_be_read_is_an_error_that_says_who_named_it(monkeypatch, tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(DataError, match=r"given by data_dir \(--data-dir\) cannot be read: No such file") as error:
        user_folder(missing)
    assert repr(missing) in str(error.value)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DASHPOT_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"given by the environment variable DASHPOT_DATA cannot be read: Not a dir"):
        user_folder(None)


def test_files_out_of_reach_count_as_absent(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path)

    def refused(_):
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refused)
    assert find(tiny.dataset, tmp_path) == {}


def test_packed_copies_go_before_unpacked_ones_and_earlier_places_before_later_ones(tiny, tmp_path):
    tiny.write(tmp_path / "data", packed=False)
    assert {path.suffix for path in find(tiny.dataset, tmp_path / "data").values()} == {""}
    tiny.write(tmp_path / "data")
    assert {path.suffix for path in find(tiny.dataset, tmp_path / "data").values()} == {".gz"}
    tiny.write(tmp_path / "data" / "tiny", leave_out="eval_labels")
    found = find(tiny.dataset, tmp_path / "data", tiny.dataset.folders)
    assert {path.parent.name for path in found.values()} == {"tiny"}
    assert len(found) == 3


def test_nothing_found_is_empty(tiny, tmp_path):
    assert find(tiny.dataset, tmp_path / "nowhere", tiny.dataset.folders) == {}
