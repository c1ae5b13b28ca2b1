"""Fallback to the eager engine if there is no kernel, with equal results and one warning with cause and remedy."""

import stat
import warnings

import pytest
from contracts.trajectories import identical, parameters, run, values
from engine_support import SGD, explanation, is_compiled, run_steps

import dashpot as dp
from dashpot.engine.native import build, kernel

pytestmark = pytest.mark.needs_compiler


@pytest.fixture(autouse=True)
def isolated_cache(tmp_path, monkeypatch):
    """Clear the caches and the record of past warnings."""
    monkeypatch.setenv("DASHPOT_CACHE", str(tmp_path / "cache"))
    for module, name, value in (
        (kernel, "_KERNELS", {}),
        (kernel, "_warned", set()),
        (build, "_libraries", {}),
        (build, "_accepted", {}),
        (build, "_warned", set()),
    ):
        monkeypatch.setattr(module, name, value)
    return tmp_path


def scripted_compiler(folder, body):
    """Write a compiler script that prints a version and otherwise runs `body`."""
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\ncase "$*" in *--version*) echo "scripted_compiler 1.0"; exit 0;; esac\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def sgd(params, **how):
    return dp.SGD(params, **SGD, **how)


def expected(steps):
    params = parameters()
    return values(run(sgd(params, engine="eager"), params, steps))


def warnings_of(action):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [str(item.message) for item in caught]


def check_fallback(engine, steps, cause, remedy):
    """Step two optimizers. Check for eager results, a single warning, and the reason in `explain_engine`."""
    optimizers = []

    def go():
        for _ in range(2):
            params = parameters()
            optimizers.append((params, sgd(params, engine=engine)))
            run_steps([optimizers[-1]], range(steps))

    sentences = warnings_of(go)
    assert len(sentences) == 1
    assert sentences[0].startswith("dashpot runs its slower eager engine, with the same results. ")
    assert cause in sentences[0]
    assert remedy in sentences[0]
    for params, optimizer in optimizers:
        assert identical(params, expected(steps))
        assert cause in explanation(optimizer)
        assert "eager: " in explanation(optimizer)


NO_COMPILER = ("compiled", 3), ("auto", 3)


@pytest.mark.parametrize(("engine", "steps"), NO_COMPILER)
def test_invalid_cxx(monkeypatch, engine, steps):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    check_fallback(engine, steps, "/nonexistent/c++", "set CXX")


@pytest.mark.parametrize(("engine", "steps"), NO_COMPILER)
def test_no_compiler_on_path(monkeypatch, tmp_path, engine, steps):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    check_fallback(engine, steps, "No C++ compiler (c++, g++, clang++) is on the search path", "apt install g++")


@pytest.mark.parametrize(("engine", "steps"), [("compiled", 3), ("auto", 3)])
def test_failing_compiler(monkeypatch, tmp_path, engine, steps):
    monkeypatch.setenv("CXX", scripted_compiler(tmp_path, 'echo "kernel.cpp:1: error: out of cheese" >&2; exit 1'))
    check_fallback(engine, steps, "error: out of cheese", "set CXX to another compiler")


def test_eager_without_compiler_does_not_warn(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    params = parameters()
    assert warnings_of(lambda: run(sgd(params, engine="eager"), params, 30)) == []


def test_failed_kernel_stays_eager_and_others_compile(monkeypatch, tmp_path):
    """A failed kernel is not retried in the same process."""
    broken = tmp_path / "broken"
    broken.touch()
    compiler = build.find()
    monkeypatch.setenv("CXX", scripted_compiler(tmp_path, f'[ -e "{broken}" ] && exit 1\nexec "{compiler.path}" "$@"'))
    first, second = parameters(), parameters()
    one, two = sgd(first, engine="compiled"), dp.SGD(second, lr=0.1, engine="compiled")
    assert len(warnings_of(lambda: run_steps([(first, one)], range(2)))) == 1
    broken.unlink()
    assert warnings_of(lambda: run_steps([(first, one), (second, two)], range(2, 4))) == []
    assert is_compiled(two)
    assert "eager: The C++ compiler" in explanation(one)
    assert identical(first, expected(4))


def test_clipping_and_skipping_without_compiler_match_eager(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    params, others = parameters(), parameters()
    options = {"max_norm": 0.5, "nonfinite": "skip"}
    assert len(warnings_of(lambda: run(sgd(params, engine="compiled", **options), params, 4))) == 1
    run(sgd(others, engine="eager", **options), others, 4)
    assert identical(params, values(others))


def test_corrupt_cached_kernel_is_rebuilt(tmp_path, monkeypatch):
    params = parameters()
    run_steps([(params, sgd(params, engine="compiled"))], range(2))
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".so", ".dylib"))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(kept.read_bytes()[:-4096] + bytes(4096))
    damaged.replace(kept)  # not in place, because the old file is loaded
    monkeypatch.setattr(kernel, "_KERNELS", {})
    monkeypatch.setattr(build, "_libraries", {})
    before = build.compilations()
    again = parameters()
    optimizer = sgd(again, engine="compiled")
    run_steps([(again, optimizer)], range(2))
    assert build.compilations() == before + 1
    assert is_compiled(optimizer)
    assert identical(again, values(params))


def test_cached_kernel_is_not_recompiled(monkeypatch):
    params = parameters()
    run_steps([(params, sgd(params, engine="compiled"))], range(1))
    monkeypatch.setattr(kernel, "_KERNELS", {})
    monkeypatch.setattr(build, "_libraries", {})
    before = build.compilations()
    again = parameters()
    optimizer = sgd(again, engine="compiled")
    run_steps([(again, optimizer)], range(1))
    assert build.compilations() == before
    assert is_compiled(optimizer)
