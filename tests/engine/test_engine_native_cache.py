"""The compiler that is found, the key of a kernel, and the folder that is trusted with native code."""

import os
import re
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dashpot.engine.native import cache, compiler
from dashpot.engine.native.compiler import BuildError, find
from dashpot.utils import cache_dir

pytestmark = [pytest.mark.needs_compiler, pytest.mark.needs_posix]

NAME = "0" * 64


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "cache"))
    cache._sweep.cache_clear()


def script(path, *lines):
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o700)
    return path


class TestCompiler:
    def test_it_is_the_first_on_the_search_path(self, tmp_path, monkeypatch):
        for name in ("g++", "clang++"):
            script(tmp_path / name, f"echo {name} of Free Software Foundation")
        monkeypatch.setenv("PATH", str(tmp_path))
        found = find()
        assert (found.path, found.version) == (str(tmp_path / "g++"), "g++ of Free Software Foundation")

    def test_it_is_the_one_that_cxx_names_with_its_words(self, tmp_path, monkeypatch):
        wrapper = script(tmp_path / "wrapper", 'echo "$@"')
        monkeypatch.setenv("CXX", f"{wrapper} g++ -m64")
        found = find()
        assert found.path == str(wrapper)
        assert found.version == "g++ -m64 --version"
        assert found.command("in", "out")[:3] == [str(wrapper), "g++", "-m64"]

    def test_a_program_with_a_blank_in_its_name_is_one_program(self, tmp_path, monkeypatch):
        (tmp_path / "my tools").mkdir()
        program = script(tmp_path / "my tools" / "g++", "echo mine")
        monkeypatch.setenv("CXX", str(program))
        assert find().path == str(program)

    @pytest.mark.parametrize("named", ["", "  "])
    def test_an_empty_cxx_names_nothing(self, named, monkeypatch):
        expected = find()
        monkeypatch.setenv("CXX", named)
        assert find() == expected

    def test_it_is_asked_once(self, tmp_path, monkeypatch):
        program = script(tmp_path / "compiler", f"echo >> {tmp_path}/log")
        monkeypatch.setenv("CXX", str(program))
        assert find() is find()
        assert (tmp_path / "log").read_text() == "\n"

    @pytest.mark.parametrize("named", ["/nonexistent", "nonexistent -m64", "'"])
    def test_a_cxx_that_is_no_program_is_refused_with_a_cure(self, named, monkeypatch):
        monkeypatch.setenv("CXX", named)
        with pytest.raises(BuildError, match=rf"^CXX={re.escape(repr(named))} is no program .*unset it.*apt install"):
            find()

    def test_an_empty_search_path_is_refused_with_a_cure(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(BuildError, match=r"^No C\+\+ compiler .*apt install g\+\+.* or set CXX to one\.$"):
            find()

    def test_a_compiler_that_does_not_run_is_refused_with_a_cure(self, tmp_path, monkeypatch):
        program = script(tmp_path / "compiler", "exit 7")
        monkeypatch.setenv("CXX", str(program))
        with pytest.raises(BuildError, match=rf"{program} does not run .*exit status 7.*set CXX to one that runs\.$"):
            find()

    def test_nothing_that_changes_results_is_among_the_flags(self):
        words = find().command("in", "out")
        assert "-ffp-contract=off" in words
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-fassociative-math"} & set(words)

    def test_each_attempt_asks_for_less(self):
        full = replace(find(), tuning=("-t",), openmp=("-o",), libraries=("l",))
        extras = [(one.tuning, one.openmp, one.libraries) for one in full.attempts()]
        assert extras == [(("-t",), ("-o",), ("l",)), ((), ("-o",), ("l",)), (("-t",), (), ()), ((), (), ())]
        assert len(replace(full, tuning=(), openmp=(), libraries=()).attempts()) == 1

    def test_clang_gets_no_openmp_from_the_runtime_of_gnu(self, monkeypatch):
        monkeypatch.setattr(compiler, "_loaded_from", {"GOMP_parallel": "/lib/libgomp.so.1"}.get)
        assert compiler._openmp("clang version 17.0.6") == ((), ())
        assert compiler._openmp("Free Software Foundation")[0] == ("-fopenmp",)

    def test_clang_shares_the_runtime_of_llvm(self, monkeypatch):
        monkeypatch.setattr(compiler, "_loaded_from", {"__kmpc_fork_call": "/lib/libomp.so"}.get)
        monkeypatch.setattr(sys, "platform", "linux")
        assert compiler._openmp("clang version 17.0.6") == (("-Xclang", "-fopenmp"), ("/lib/libomp.so",))

    @pytest.mark.parametrize(
        ("machine", "flag"),
        [
            ("x86_64", ("-march=native",)),
            ("aarch64", ("-mcpu=native",)),
            ("arm64", ("-mcpu=native",)),
            ("riscv64", ()),
        ],
    )
    def test_the_flag_for_the_processor(self, machine, flag, monkeypatch):
        monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
        assert compiler._tuning() == flag


class TestKey:
    def test_it_changes_with_everything_that_matters_and_with_nothing_else(self, monkeypatch):
        base = compiler.Compiler("c++", "12", ("-a", "-b"), ("-t",), ("-o",), ("l",))
        keys = [cache.key("source", base), cache.key("source ", base)]
        for change in (
            {"path": "g++"},
            {"version": "13"},
            {"flags": ("-a",)},
            {"flags": ("-a-b",)},
            {"tuning": ()},
            {"openmp": ()},
            {"libraries": ("m",)},
        ):
            keys.append(cache.key("source", replace(base, **change)))
        for owner, name, value in (
            (torch, "__version__", "0.0.1"),
            (cache.platform, "machine", lambda: "abacus"),
            (cache.sys, "platform", "plan9"),
            (cache, "processor", lambda: "another"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, value)
                keys.append(cache.key("source", base))
        assert len(set(keys)) == len(keys)
        assert cache.key("source", base) == keys[0]
        assert re.fullmatch("[0-9a-f]{64}", keys[0])

    @pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="no /proc/cpuinfo")
    def test_the_processor_is_known_by_its_instruction_sets(self):
        known = cache.processor()
        assert re.search(r"^(flags|Features)\b", known, re.MULTILINE)
        assert len(known.splitlines()) <= 6  # of one core


class TestFolder:
    def test_the_default_is_in_the_cache_of_the_user(self, tmp_path, monkeypatch):
        monkeypatch.delenv(cache.VARIABLE)
        monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "user")
        assert cache.folder() == tmp_path / "user" / "kernels"
        assert cache.cache_folder is not cache_dir.cache_folder

    def test_it_is_closed_to_others_whatever_the_umask(self, tmp_path):
        before = os.umask(0)
        try:
            made = cache.folder()
        finally:
            os.umask(before)
        assert made == tmp_path / "cache"
        assert stat.S_IMODE(made.stat().st_mode) == 0o700

    def test_a_relative_name_is_made_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(cache.VARIABLE, "kernels")
        assert cache.folder() == tmp_path / "kernels"

    @pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777, 0o2770])
    def test_one_that_others_can_write_to_is_refused_with_a_cure(self, mode):
        place = cache.folder()
        place.chmod(mode)
        with pytest.raises(cache.CacheError, match=rf"'{place}' .*can be written to by others.*chmod go-w it, or set"):
            cache.folder()
        place.chmod(0o755)
        assert cache.folder() == place

    def test_one_of_another_user_is_refused_with_a_cure(self, monkeypatch):
        place = cache.folder()
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(cache.CacheError, match=rf"'{place}' .*another user \(number {me}, .*set {cache.VARIABLE}"):
            cache.folder()

    def test_one_that_anybody_could_replace_is_refused_with_a_cure(self, tmp_path, monkeypatch):
        parent = tmp_path / "open"
        parent.mkdir()
        monkeypatch.setenv(cache.VARIABLE, str(parent / "cache"))
        parent.chmod(0o1777)  # as /tmp: nobody can rename what is another's
        place = cache.folder()
        parent.chmod(0o777)
        with pytest.raises(cache.CacheError, match=rf"'{place}' .*inside '{parent}', which everybody.*chmod o-w that"):
            cache.folder()

    def test_one_below_a_file_cannot_be_made(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.raises(cache.CacheError, match=rf"'{tmp_path / 'file'}.*cannot be made \(Not a directory\): set"):
            cache.folder()

    def test_a_user_without_a_home_is_told(self, monkeypatch):
        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv(cache.VARIABLE)
        monkeypatch.setattr(cache, "cache_folder", no_home)
        with pytest.raises(cache.CacheError, match=r"cannot be made \(Could not determine home"):
            cache.folder()


class TestEntries:
    def test_what_is_written_is_read_until_a_bit_changes(self, tmp_path):
        built, place = tmp_path / "built", cache.folder()
        built.write_bytes(bytes(range(256)))
        path = cache.write(place, NAME, built)
        assert cache.read(place, NAME) == path
        assert path.read_bytes().startswith(built.read_bytes())
        content = path.read_bytes()
        for position in range(0, len(content), 7):
            path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
            assert cache.read(place, NAME) is None
        path.write_bytes(content)
        assert cache.read(place, NAME) == path

    def test_an_empty_library_is_none(self, tmp_path):
        (tmp_path / "built").touch()
        cache.write(cache.folder(), NAME, tmp_path / "built")
        assert cache.read(cache.folder(), NAME) is None

    def test_one_of_another_user_is_none(self, tmp_path, monkeypatch):
        place = cache.folder()
        (tmp_path / "built").write_bytes(b"code")
        cache.write(place, NAME, tmp_path / "built")
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        assert cache.read(place, NAME) is None

    def test_what_dead_processes_left_is_swept_after_a_day_and_once(self, tmp_path):
        place = cache.folder()
        (tmp_path / "built").write_bytes(b"code")
        yesterday = time.time() - 2 * cache.DAY
        left = [
            place / ".x.so.0123.part",
            place / "x.lock",
            place / ".y.so.4567.part",
            place / "y.lock",
            place / "z.so",
        ]
        for path in left:
            path.touch()
        for path in (left[0], left[1], left[4]):
            os.utime(path, (yesterday, yesterday))
        cache.write(place, NAME, tmp_path / "built")
        assert [path.exists() for path in left] == [False, False, True, True, True]
        os.utime(left[2], (yesterday, yesterday))
        cache.write(place, NAME, tmp_path / "built")
        assert left[2].exists()
