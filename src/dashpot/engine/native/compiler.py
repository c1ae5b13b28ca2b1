"""Discovery of a C++ compiler, and the flags that make kernels round exactly as the eager engine does."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from dashpot._torch_private import EXTENSION_FILE
from dashpot.errors import DashpotError

NAMES = ("c++", "g++", "clang++")
BASE_FLAGS = (
    "-std=c++17",
    # -O3 takes 20 % longer and does not make kernels faster, because their loops are marked for vectorization.
    "-O2",
    "-ftree-vectorize",
    "-fopenmp-simd",
    "-fPIC",
    "-shared",
    # Kernels use neither errno nor floating-point traps, which would prevent vectorized square roots and selections.
    "-fno-math-errno",
    "-fno-trapping-math",
    # No implicit fused multiply-add, because the eager engine rounds after each operation.
    "-ffp-contract=off",
)
INSTALL = "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
VERSION_TIMEOUT = 30.0


class BuildError(DashpotError, RuntimeError):
    """A kernel cannot be compiled or loaded on this machine."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler, with all parts of its command line that affect the library.

    Args:
        path: Path of the executable.
        version: Output of the compiler for `--version`.
        flags: Arguments in `CXX` after the executable, followed by the flags common to all kernels.
        tuning: Flags that optimize for this processor; empty if the compiler does not support them.
        openmp: Flags that enable OpenMP; empty if torch's OpenMP runtime cannot be shared.
        libraries: Arguments for the linker. They follow the source on the command line.
    """

    path: str
    version: str
    flags: tuple[str, ...]
    tuning: tuple[str, ...] = ()
    openmp: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def command(self, source: str, library: str) -> list[str]:
        """Return the command that compiles the file `source` to the shared library `library`."""
        return [self.path, *self.flags, *self.tuning, *self.openmp, source, "-o", library, *self.libraries]

    def with_fallbacks(self) -> list[Compiler]:
        """Return this compiler, followed by copies with fewer optional flags, without duplicates.

        Flags can fail because the assembler is older than the processor, or because OpenMP is not installed.
        """
        serial = replace(self, openmp=(), libraries=())
        return list(dict.fromkeys([self, replace(self, tuning=()), serial, replace(serial, tuning=())]))


def find() -> Compiler:
    """Return the compiler in `CXX` if set, otherwise the first of c++, g++ and clang++ on the search path.

    The result is cached for each pair of values of `CXX` and `PATH`.

    Raises:
        BuildError: If no compiler is found, or if the compiler does not run.

    >>> "-ffp-contract=off" in find().flags
    True
    """
    return _find((os.environ.get("CXX") or "").strip(), os.environ.get("PATH"))


@functools.lru_cache(maxsize=8)
def _find(cxx: str, search: str | None) -> Compiler:
    words = _from_cxx(cxx, search) if cxx else _from_path(search)
    version = _version(words)
    openmp, libraries = _openmp(version)
    return Compiler(words[0], version, (*words[1:], *BASE_FLAGS), _tuning(), openmp, libraries)


def _from_path(search: str | None) -> list[str]:
    for name in NAMES:
        if path := shutil.which(name, path=search):
            return [str(Path(path).absolute())]
    raise BuildError(f"No C++ compiler ({', '.join(NAMES)}) is on the search path: {INSTALL} or set CXX to one.")


def _from_cxx(cxx: str, search: str | None) -> list[str]:
    """Split `CXX` into the executable and its arguments, as in `ccache g++`."""
    try:
        splits = [[cxx], shlex.split(cxx)]
    except ValueError:  # an unclosed quotation mark
        splits = [[cxx]]
    for words in splits:
        if words and (path := shutil.which(words[0], path=search)):
            return [str(Path(path).absolute()), *words[1:]]
    raise BuildError(f"CXX={cxx!r} is not an executable: set CXX to a C++ compiler, or unset it and {INSTALL}.")


def _version(words: list[str]) -> str:
    try:
        answer = subprocess.run(
            [*words, "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=VERSION_TIMEOUT,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(
            f"The C++ compiler {shlex.join(words)} does not run ({error}): {INSTALL} or set CXX to one that runs."
        ) from error
    return answer.stdout.decode(errors="replace").strip()


def _tuning() -> tuple[str, ...]:
    """Return the flag that enables all instructions of this processor."""
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64", "i386", "i686", "s390x"}:
        return ("-march=native",)
    if machine.startswith(("arm", "aarch64", "ppc")):
        return ("-mcpu=native",)
    return ()


def _openmp(version: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return flags and libraries for OpenMP with torch's runtime; both are empty if torch's runtime cannot be used.

    A second runtime would create a second thread pool and ignore `torch.set_num_threads`. Therefore the kernel is
    linked against the file that torch uses, whatever its name, and the dynamic loader resolves its SONAME to the
    library that is already loaded. GNU compilers call `GOMP_parallel`; LLVM and Intel compilers call
    `__kmpc_fork_call`. libgomp provides only `GOMP_parallel`; on Linux, libomp and libiomp provide both functions.
    """
    gnu = "Free Software Foundation" in version
    runtime = _find_library("GOMP_parallel" if gnu else "__kmpc_fork_call")
    if runtime is None:
        return (), ()
    if gnu:
        # The compiler appends -lgomp for its own runtime; --as-needed then drops this unused library.
        return ("-fopenmp",), (runtime, "-Wl,--as-needed")
    # -Xclang enables the pragmas without linking the compiler's own runtime.
    library = "-Wl,-undefined,dynamic_lookup" if sys.platform == "darwin" else runtime
    return ("-Xclang", "-fopenmp"), (library,)


class _DlInfo(ctypes.Structure):
    """The struct `Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
    )


def _find_library(function: str) -> str | None:
    """Return the file that provides `function` to torch, or None if it is not found.

    The search order is that of the loader: the global scope, then torch's libraries.
    """
    if sys.platform == "win32":
        return None
    for scope in (None, EXTENSION_FILE):
        try:
            address = ctypes.cast(ctypes.CDLL(scope)[function], ctypes.c_void_p)
            dladdr = ctypes.CDLL(None).dladdr
        except (OSError, AttributeError):
            continue
        info = _DlInfo()
        dladdr.argtypes = [ctypes.c_void_p, ctypes.POINTER(_DlInfo)]
        if dladdr(address, ctypes.byref(info)) and info.file and Path(os.fsdecode(info.file)).is_file():
            return str(Path(os.fsdecode(info.file)).absolute())
    return None
