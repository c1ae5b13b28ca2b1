"""Damaged entries of the cache, and folders that cannot be used."""
# ruff: noqa: F401, F811 - fixtures are imported, and given to tests by their names

import ctypes
import errno
import os
import sys
import tempfile
from pathlib import Path

import pytest
from build_support import answering, clean_slate, entry, forget, logged, scripted

from dashpot.engine.native import build, cache

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]


class TestDamage:
    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(lambda content, other: b"", id="empty"),
            pytest.param(lambda content, other: content[:-1], id="truncated by one byte"),
            pytest.param(lambda content, other: content[: len(content) // 2], id="half"),
            pytest.param(lambda content, other: content[: -cache.TRAILER], id="without its checksum"),
            pytest.param(lambda content, other: content[-cache.TRAILER :], id="only its checksum"),
            pytest.param(lambda content, other: content + b"x", id="with something after it"),
            pytest.param(lambda content, other: content.replace(b"answer", b"insert", 1), id="changed"),
            pytest.param(lambda content, other: other, id="another kernel"),
        ],
    )
    def test_a_damaged_entry_is_rebuilt_and_not_run(self, damage, logged, tmp_path, monkeypatch):
        for number in (8, 9):
            build.library(answering(number))
        intact, other = (entry(answering(number)).read_bytes() for number in (8, 9))
        # In another folder, for a library that a process has loaded is not looked at again under its old name.
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "damaged"))
        forget()
        path = entry(answering(8))
        path.write_bytes(damage(intact, other))
        path.chmod(0o600)
        assert damage(intact, other) != intact
        assert build.loaded(answering(8)) is None
        assert build.library(answering(8)).answer() == 8
        assert len(logged()) == 3
        assert cache.read(cache.folder(), path.stem) == path

    def test_an_entry_that_others_could_have_written_is_rebuilt(self):
        build.library(answering(10))
        forget()
        assert build.loaded(answering(10)) is not None
        entry(answering(10)).chmod(0o620)
        forget()
        assert build.loaded(answering(10)) is None
        assert build.library(answering(10)).answer() == 10
        assert entry(answering(10)).stat().st_mode & 0o777 == 0o600

    def test_a_link_or_a_pipe_in_the_place_of_an_entry_is_not_followed(self, tmp_path):
        build.library(answering(11))
        path = entry(answering(11))
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
        assert cache.read(cache.folder(), path.stem) is None
        path.unlink()
        os.mkfifo(path, 0o600)
        assert cache.read(cache.folder(), path.stem) is None


class TestFolder:
    def test_a_folder_others_can_write_to_is_refused_with_one_warning_and_not_used(self):
        folder = cache.folder()
        build.library(answering(12))
        planted = entry(answering(12)).read_bytes()
        folder.chmod(0o770)
        forget()
        with pytest.warns(
            RuntimeWarning, match=rf"{folder}.* by others.*chmod go-w.*{cache.VARIABLE}.* anew\.$"
        ) as caught:
            assert build.loaded(answering(12)) is None
        assert len(caught) == 1
        before = build.compilations()
        assert build.library(answering(12)).answer() == 12
        assert build.library(answering(13)).answer() == 13
        assert build.compilations() == before + 2
        assert [path.read_bytes() for path in folder.iterdir()] == [planted]
        assert build.loaded(answering(13)).answer() == 13

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.warns(RuntimeWarning, match=rf"{tmp_path / 'file'}.*cannot be made.*{cache.VARIABLE}"):
            assert build.library(answering(15)).answer() == 15

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_a_disk_that_is_full_or_read_only_does_not_stop_the_kernel(self, number, monkeypatch):
        real, folder = cache.write, cache.folder()

        def write(place, name, built):
            if place == folder:
                raise OSError(number, os.strerror(number))
            return real(place, name, built)

        monkeypatch.setattr(cache, "write", write)
        with pytest.warns(RuntimeWarning, match=rf"{folder}.*{os.strerror(number)}") as caught:
            assert build.library(answering(16)).answer() == 16
        assert len(caught) == 1
        assert build.library(answering(17)).answer() == 17

    def test_a_folder_that_lets_no_program_run_does_not_stop_the_kernel(self, monkeypatch):
        real, folder = ctypes.CDLL, cache.folder()

        def load(path):
            if Path(path).parent == folder:
                raise OSError(f"{path}: failed to map segment from shared object")
            return real(path)

        monkeypatch.setattr(build.ctypes, "CDLL", load)
        with pytest.warns(RuntimeWarning, match="failed to map segment"):
            assert build.library(answering(18)).answer() == 18

    def test_without_a_folder_to_compile_in_the_sentence_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(build.BuildError, match=r"no folder to compile.*set TMPDIR"):
            build.library(answering(20))

    def test_folders_that_let_no_program_run_are_both_named_with_the_cure(self, monkeypatch, clean_slate):
        def load(path):
            raise OSError(f"{path}: failed to map segment from shared object")

        folder, before = cache.folder(), build.compilations()
        monkeypatch.setattr(build.ctypes, "CDLL", load)
        with pytest.raises(build.BuildError) as caught:
            build.library(answering(19))
        sentence = str(caught.value)
        assert f"kept in the folder {str(folder)!r} or loaded from there (" in sentence
        assert f", nor be loaded from the temporary folder {str(clean_slate)!r} (failed to map segment" in sentence
        assert sentence.endswith(
            f"programs may not run there: set {cache.VARIABLE} to a folder of yours where they may."
        )
        assert build.compilations() == before + 1  # fewer flags would not help
