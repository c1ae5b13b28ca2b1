"""Corrupt cache entries and unusable folders."""
# ruff: noqa: F401, F811 - imported fixtures

import ctypes
import errno
import os
import sys
import tempfile
from pathlib import Path

import pytest
from build_support import clear_loaded, entry, isolated_cache, logged, scripted_compiler, source_returning

from dashpot.engine.native import build, cache

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda content, other: b"", id="empty"),
            pytest.param(lambda content, other: content[:-1], id="truncated by one byte"),
            pytest.param(lambda content, other: content[: len(content) // 2], id="half", marks=pytest.mark.slow),
            pytest.param(
                lambda content, other: content[: -cache.TRAILER_SIZE], id="no checksum", marks=pytest.mark.slow
            ),
            pytest.param(
                lambda content, other: content[-cache.TRAILER_SIZE :], id="checksum only", marks=pytest.mark.slow
            ),
            pytest.param(lambda content, other: content + b"x", id="trailing byte", marks=pytest.mark.slow),
            pytest.param(lambda content, other: content.replace(b"answer", b"insert", 1), id="changed"),
            pytest.param(lambda content, other: other, id="different kernel"),
        ],
    )
    def test_corrupt_entry_is_rebuilt(self, damage, logged, tmp_path, monkeypatch):
        for number in (8, 9):
            build.library(source_returning(number))
        intact, other = (entry(source_returning(number)).read_bytes() for number in (8, 9))
        # Use a new folder, because the loader does not read a library again that is loaded under the same path.
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "damaged"))
        clear_loaded()
        path = entry(source_returning(8))
        path.write_bytes(damage(intact, other))
        path.chmod(0o600)
        assert damage(intact, other) != intact
        assert build.load_cached(source_returning(8)) is None
        assert build.library(source_returning(8)).answer() == 8
        assert len(logged()) == 3
        assert cache.read(cache.folder(), path.stem) == path

    def test_group_writable_entry_is_rebuilt(self):
        build.library(source_returning(10))
        clear_loaded()
        assert build.load_cached(source_returning(10)) is not None
        entry(source_returning(10)).chmod(0o620)
        clear_loaded()
        assert build.load_cached(source_returning(10)) is None
        assert build.library(source_returning(10)).answer() == 10
        assert entry(source_returning(10)).stat().st_mode & 0o777 == 0o600

    def test_symlink_or_pipe_as_entry_is_ignored(self, tmp_path):
        build.library(source_returning(11))
        path = entry(source_returning(11))
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
        assert cache.read(cache.folder(), path.stem) is None
        path.unlink()
        os.mkfifo(path, 0o600)
        assert cache.read(cache.folder(), path.stem) is None


class TestFolder:
    def test_writable_by_others_warns_once_and_is_not_used(self):
        folder = cache.folder()
        build.library(source_returning(12))
        planted = entry(source_returning(12)).read_bytes()
        folder.chmod(0o770)
        clear_loaded()
        with pytest.warns(
            RuntimeWarning,
            match=rf"{folder}.* by other users.*{cache.VARIABLE}.* recompiles its kernels\.$",
        ) as caught:
            assert build.load_cached(source_returning(12)) is None
        assert len(caught) == 1
        before = build.compilations()
        assert build.library(source_returning(12)).answer() == 12
        assert build.library(source_returning(13)).answer() == 13
        assert build.compilations() == before + 2
        assert [path.read_bytes() for path in folder.iterdir()] == [planted]
        assert build.load_cached(source_returning(13)).answer() == 13

    def test_uncreatable_folder_warns(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.warns(RuntimeWarning, match=rf"{tmp_path / 'file'}.*cannot be created.*{cache.VARIABLE}"):
            assert build.library(source_returning(15)).answer() == 15

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_full_or_read_only_disk_warns_and_loads_kernel(self, number, monkeypatch):
        real, folder = cache.write, cache.folder()

        def write(place, name, built):
            if place == folder:
                raise OSError(number, os.strerror(number))
            return real(place, name, built)

        monkeypatch.setattr(cache, "write", write)
        with pytest.warns(RuntimeWarning, match=rf"{folder}.*{os.strerror(number)}") as caught:
            assert build.library(source_returning(16)).answer() == 16
        assert len(caught) == 1
        assert build.library(source_returning(17)).answer() == 17

    def test_noexec_folder_warns_and_loads_kernel(self, monkeypatch):
        real, folder = ctypes.CDLL, cache.folder()

        def load(path):
            if Path(path).parent == folder:
                raise OSError(f"{path}: failed to map segment from shared object")
            return real(path)

        monkeypatch.setattr(build.ctypes, "CDLL", load)
        with pytest.warns(RuntimeWarning, match="failed to map segment"):
            assert build.library(source_returning(18)).answer() == 18

    def test_missing_temporary_folder_raises(self, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(build.BuildError, match=r"No writable temporary folder.*set TMPDIR"):
            build.library(source_returning(20))

    def test_noexec_cache_and_temporary_folder_raises(self, monkeypatch, isolated_cache):
        def load(path):
            raise OSError(f"{path}: failed to map segment from shared object")

        folder, before = cache.folder(), build.compilations()
        monkeypatch.setattr(build.ctypes, "CDLL", load)
        with pytest.raises(build.BuildError) as caught:
            build.library(source_returning(19))
        sentence = str(caught.value)
        assert f"cached in the folder {str(folder)!r} or loaded from there (" in sentence
        assert f", nor be loaded from the temporary folder {str(isolated_cache)!r} (failed to map segment" in sentence
        assert sentence.endswith(
            f"is mounted noexec: set {cache.VARIABLE} to a private folder that allows executables."
        )
        assert build.compilations() == before + 1  # fewer flags would not have helped
