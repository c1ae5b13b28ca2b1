"""The machine's C++ compiler, and the flags with which it makes a kernel that equals eager bit for bit."""

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

__all__ = ["BuildError", "Compiler", "find"]

NAMES = ("c++", "g++", "clang++")
BASE_FLAGS = (
    "-std=c++17",
    # -O3 takes a fifth longer and gives kernels of the same speed: their loops say themselves that they are vectors.
    "-O2",
    "-ftree-vectorize",
    "-fopenmp-simd",
    "-fPIC",
    "-shared",
    # errno and floating-point traps, which nobody reads; with them square roots and selections stay scalar.
    "-fno-math-errno",
    "-fno-trapping-math",
    # No fused multiply-add that the source does not ask for: eager rounds after each operation.
    "-ffp-contract=off",
)
CURE = "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
VERSION_TIMEOUT = 30.0


class BuildError(DashpotError, RuntimeError):
    """A kernel cannot be compiled or loaded on this machine."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler with everything about its command that can change the library it makes.

    Args:
        path: the program.
        version: what it says about itself.
        flags: the flags every kernel needs, before them any words that `CXX` has after the program.
        tuning: the flags that name this processor; empty where they cannot be used.
        openmp: the flags that turn on OpenMP; empty where torch's OpenMP runtime cannot be shared.
        libraries: what is linked, after the source.
    """

    path: str
    version: str
    flags: tuple[str, ...]
    tuning: tuple[str, ...] = ()
    openmp: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def command(self, source: str, library: str) -> list[str]:
        """The words of the command that turns the file `source` into the shared library `library`."""
        return [self.path, *self.flags, *self.tuning, *self.openmp, source, "-o", library, *self.libraries]

    def attempts(self) -> list[Compiler]:
        """This compiler, then the same with ever fewer of the flags that some compilers refuse, each once.

        An assembler older than the processor refuses the tuning, and OpenMP is a package of its own on some systems.
        """
        serial = replace(self, openmp=(), libraries=())
        return list(dict.fromkeys([self, replace(self, tuning=()), serial, replace(serial, tuning=())]))


def find() -> Compiler:
    """The compiler that `CXX` names, else the first of c++, g++ and clang++ on the search path.

    Asked once for each value of `CXX` and `PATH`: its version costs a process of a few milliseconds.

    Raises:
        BuildError: there is no compiler, or it does not run.

    >>> "-ffp-contract=off" in find().flags
    True
    """
    return _find((os.environ.get("CXX") or "").strip(), os.environ.get("PATH"))


@functools.lru_cache(maxsize=8)
def _find(named: str, search: str | None) -> Compiler:
    words = _named(named, search) if named else _default(search)
    version = _version(words)
    openmp, libraries = _openmp(version)
    return Compiler(words[0], version, (*words[1:], *BASE_FLAGS), _tuning(), openmp, libraries)


def _default(search: str | None) -> list[str]:
    """The first compiler on the search path."""
    for name in NAMES:
        if path := shutil.which(name, path=search):
            return [str(Path(path).absolute())]
    raise BuildError(f"No C++ compiler ({', '.join(NAMES)}) is on the search path: {CURE} or set CXX to one.")


def _named(named: str, search: str | None) -> list[str]:
    """The program that `CXX` names and, as in `ccache g++`, the words after it."""
    try:
        splits = [[named], shlex.split(named)]
    except ValueError:  # an unclosed quote
        splits = [[named]]
    for words in splits:
        if words and (path := shutil.which(words[0], path=search)):
            return [str(Path(path).absolute()), *words[1:]]
    raise BuildError(f"CXX={named!r} is no program that can be run: set CXX to a C++ compiler, or unset it and {CURE}.")


def _version(words: list[str]) -> str:
    """What the compiler says about itself."""
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
            f"The C++ compiler {shlex.join(words)} does not run ({error}): {CURE} or set CXX to one that runs."
        ) from error
    return answer.stdout.decode(errors="replace").strip()


def _tuning() -> tuple[str, ...]:
    """The flag that allows every instruction of this processor."""
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64", "i386", "i686", "s390x"}:
        return ("-march=native",)
    if machine.startswith(("arm", "aarch64", "ppc")):
        return ("-mcpu=native",)
    return ()


def _openmp(version: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Flags and libraries for OpenMP on the very runtime that torch has loaded; both empty where that cannot be.

    A second runtime in the process would bring a second pool of threads that fights the first one, and would not see
    `torch.set_num_threads`. So the kernel is linked against torch's file, whatever its name: the loader finds that one
    by its SONAME among the loaded libraries and looks no further. The two families of compilers call different
    functions of the runtime: GNU's libgomp has no `__kmpc_fork_call`, Intel's and LLVM's have both on Linux.
    """
    gnu = "Free Software Foundation" in version
    runtime = _loaded_from("GOMP_parallel" if gnu else "__kmpc_fork_call")
    if runtime is None:
        return (), ()
    if gnu:
        # The compiler adds its own -lgomp at the end of the line: not needed by then, it leaves no trace.
        return ("-fopenmp",), (runtime, "-Wl,--as-needed")
    # -Xclang: pragmas only, so that the compiler does not ask for a runtime of its own.
    library = "-Wl,-undefined,dynamic_lookup" if sys.platform == "darwin" else runtime
    return ("-Xclang", "-fopenmp"), (library,)


class _Place(ctypes.Structure):
    """The Dl_info of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("at", ctypes.c_void_p),
    )


def _loaded_from(function: str) -> str | None:
    """The file from which torch's own calls of `function` are served: looked up the way the loader did it for torch.

    That is in the libraries everybody sees, then in those torch brought along. None where nobody has it.
    """
    if sys.platform == "win32":
        return None
    for scope in (None, EXTENSION_FILE):
        try:
            address = ctypes.cast(ctypes.CDLL(scope)[function], ctypes.c_void_p)
            find_place = ctypes.CDLL(None).dladdr
        except (OSError, AttributeError):
            continue
        place = _Place()
        find_place.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Place)]
        if find_place(address, ctypes.byref(place)) and place.file and Path(os.fsdecode(place.file)).is_file():
            return str(Path(os.fsdecode(place.file)).absolute())
    return None
