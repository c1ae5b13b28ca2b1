from __future__ import annotations

import os

import pytest

from dashpot.data.find import find, user_folder
from dashpot.errors import DataError


def test_user_folder_argument_overrides_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("DASHPOT_DATA", raising=False)
    assert user_folder(None) is None
    environment, argument = tmp_path / "environment", tmp_path / "argument"
    environment.mkdir()
    argument.mkdir()
    monkeypatch.setenv("DASHPOT_DATA", str(environment))
    assert user_folder(None) == environment
    assert user_folder(argument) == user_folder(str(argument)) == argument


def test_user_folder_unreadable_raises_with_origin(monkeypatch, tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(DataError, match=r"given by data_dir \(--data-dir\) cannot be read: No such file") as error:
        user_folder(missing)
    assert repr(missing) in str(error.value)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DASHPOT_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"given by the environment variable DASHPOT_DATA cannot be read: Not a dir"):
        user_folder(None)


def test_find_ignores_files_without_permission(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path)

    def raise_permission_error(*_):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", raise_permission_error)
        assert find(tiny.dataset, tmp_path) == {}


def test_find_prefers_compressed_files_and_earlier_folders(tiny, tmp_path):
    tiny.write(tmp_path / "data", compressed=False)
    assert {path.suffix for path in find(tiny.dataset, tmp_path / "data").values()} == {""}
    tiny.write(tmp_path / "data")
    assert {path.suffix for path in find(tiny.dataset, tmp_path / "data").values()} == {".gz"}
    tiny.write(tmp_path / "data" / "tiny", omit="eval_labels")
    found = find(tiny.dataset, tmp_path / "data", tiny.dataset.folders)
    assert {path.parent.name for path in found.values()} == {"tiny"}
    assert len(found) == 3


def test_find_in_missing_folder_returns_empty(tiny, tmp_path):
    assert find(tiny.dataset, tmp_path / "nowhere", tiny.dataset.folders) == {}
