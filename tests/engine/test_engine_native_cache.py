"""Compiler discovery, cache keys, and trust in the cache folder."""

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
    cache._remove_stale.cache_clear()


def script(path, *lines):
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o700)
    return path


class TestCompiler:
    def test_first_compiler_on_search_path_is_used(self, tmp_path, monkeypatch):
        for name in ("g++", "clang++"):
            script(tmp_path / name, f"echo {name} of Free Software Foundation")
        monkeypatch.setenv("PATH", str(tmp_path))
        found = find()
        assert (found.path, found.version) == (str(tmp_path / "g++"), "g++ of Free Software Foundation")

    def test_cxx_with_arguments_is_used(self, tmp_path, monkeypatch):
        wrapper = script(tmp_path / "wrapper", 'echo "$@"')
        monkeypatch.setenv("CXX", f"{wrapper} g++ -m64")
        found = find()
        assert found.path == str(wrapper)
        assert found.version == "g++ -m64 --version"
        assert found.command("in", "out")[:3] == [str(wrapper), "g++", "-m64"]

    def test_cxx_path_with_space_is_one_executable(self, tmp_path, monkeypatch):
        (tmp_path / "my tools").mkdir()
        program = script(tmp_path / "my tools" / "g++", "echo mine")
        monkeypatch.setenv("CXX", str(program))
        assert find().path == str(program)

    @pytest.mark.parametrize("named", ["", "  "])
    def test_empty_cxx_is_ignored(self, named, monkeypatch):
        expected = find()
        monkeypatch.setenv("CXX", named)
        assert find() == expected

    def test_compiler_version_is_queried_once(self, tmp_path, monkeypatch):
        program = script(tmp_path / "compiler", f"echo >> {tmp_path}/log")
        monkeypatch.setenv("CXX", str(program))
        assert find() is find()
        assert (tmp_path / "log").read_text() == "\n"

    @pytest.mark.parametrize("named", ["/nonexistent", "nonexistent -m64", "'"])
    def test_invalid_cxx_raises_with_hint(self, named, monkeypatch):
        monkeypatch.setenv("CXX", named)
        with pytest.raises(BuildError, match=rf"^CXX={re.escape(repr(named))} is not an executable.*apt install"):
            find()

    def test_empty_search_path_raises_with_hint(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(BuildError, match=r"^No C\+\+ compiler .*apt install g\+\+.* or set CXX to one\.$"):
            find()

    def test_failing_compiler_raises_with_hint(self, tmp_path, monkeypatch):
        program = script(tmp_path / "compiler", "exit 7")
        monkeypatch.setenv("CXX", str(program))
        with pytest.raises(BuildError, match=rf"{program} does not run .*exit status 7.*set CXX to one that runs\.$"):
            find()

    def test_flags_exclude_unsafe_math(self):
        words = find().command("in", "out")
        assert "-ffp-contract=off" in words
        assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-fassociative-math"} & set(words)

    def test_fallbacks_drop_optional_flags(self):
        full = replace(find(), tuning=("-t",), openmp=("-o",), libraries=("l",))
        extras = [(one.tuning, one.openmp, one.libraries) for one in full.with_fallbacks()]
        assert extras == [(("-t",), ("-o",), ("l",)), ((), ("-o",), ("l",)), (("-t",), (), ()), ((), (), ())]
        assert len(replace(full, tuning=(), openmp=(), libraries=()).with_fallbacks()) == 1

    def test_clang_with_gnu_runtime_has_no_openmp(self, monkeypatch):
        monkeypatch.setattr(compiler, "_find_library", {"GOMP_parallel": "/lib/libgomp.so.1"}.get)
        assert compiler._openmp("clang version 17.0.6") == ((), ())
        assert compiler._openmp("Free Software Foundation")[0] == ("-fopenmp",)

    def test_clang_links_llvm_runtime(self, monkeypatch):
        monkeypatch.setattr(compiler, "_find_library", {"__kmpc_fork_call": "/lib/libomp.so"}.get)
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
    def test_flag_for_the_processor(self, machine, flag, monkeypatch):
        monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
        assert compiler._tuning() == flag


class TestKey:
    def test_key_depends_on_source_compiler_torch_and_processor(self, monkeypatch):
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
    def test_processor_lists_instruction_sets(self):
        known = cache.processor()
        assert re.search(r"^(flags|Features)\b", known, re.MULTILINE)
        assert len(known.splitlines()) <= 6  # for one core


class TestFolder:
    def test_default_is_user_cache(self, tmp_path, monkeypatch):
        monkeypatch.delenv(cache.VARIABLE)
        monkeypatch.setattr(cache, "cache_folder", lambda: tmp_path / "user")
        assert cache.folder() == tmp_path / "user" / "kernels"
        assert cache.cache_folder is not cache_dir.cache_folder

    def test_folder_is_private_for_any_umask(self, tmp_path):
        before = os.umask(0)
        try:
            made = cache.folder()
        finally:
            os.umask(before)
        assert made == tmp_path / "cache"
        assert stat.S_IMODE(made.stat().st_mode) == 0o700

    def test_relative_path_becomes_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(cache.VARIABLE, "kernels")
        assert cache.folder() == tmp_path / "kernels"

    @pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777, 0o2770])
    def test_writable_by_others_raises_with_hint(self, mode):
        place = cache.folder()
        place.chmod(mode)
        with pytest.raises(cache.CacheError, match=rf"'{place}' .*is writable by other users.*chmod go-w it, or set"):
            cache.folder()
        place.chmod(0o755)
        assert cache.folder() == place

    def test_different_owner_raises_with_hint(self, monkeypatch):
        place = cache.folder()
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(cache.CacheError, match=rf"'{place}' .*another user \(uid {me}, .*set {cache.VARIABLE}"):
            cache.folder()

    def test_world_writable_parent_raises_with_hint(self, tmp_path, monkeypatch):
        parent = tmp_path / "open"
        parent.mkdir()
        monkeypatch.setenv(cache.VARIABLE, str(parent / "cache"))
        parent.chmod(0o1777)  # as for /tmp: only owners can rename files
        place = cache.folder()
        parent.chmod(0o777)
        with pytest.raises(
            cache.CacheError, match=rf"'{place}' .*inside '{parent}', which is world-writable.*chmod o-w"
        ):
            cache.folder()

    def test_path_below_file_raises(self, tmp_path, monkeypatch):
        (tmp_path / "file").touch()
        monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "file" / "cache"))
        with pytest.raises(cache.CacheError, match=rf"'{tmp_path / 'file'}.*cannot be created \(Not a directory\)"):
            cache.folder()

    def test_missing_home_raises(self, monkeypatch):
        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv(cache.VARIABLE)
        monkeypatch.setattr(cache, "cache_folder", no_home)
        with pytest.raises(cache.CacheError, match=r"cannot be created \(Could not determine home"):
            cache.folder()


class TestEntries:
    def test_written_entry_is_read_unless_a_bit_differs(self, tmp_path):
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

    def test_empty_entry_is_ignored(self, tmp_path):
        (tmp_path / "built").touch()
        cache.write(cache.folder(), NAME, tmp_path / "built")
        assert cache.read(cache.folder(), NAME) is None

    def test_entry_of_different_owner_is_ignored(self, tmp_path, monkeypatch):
        place = cache.folder()
        (tmp_path / "built").write_bytes(b"code")
        cache.write(place, NAME, tmp_path / "built")
        me = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: me + 1)
        assert cache.read(place, NAME) is None

    def test_stale_files_are_removed_once_after_a_day(self, tmp_path):
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
