"""Flip every bit of small checkpoints and text records, truncate them, and read the damaged files.

    python benchmarks/damage.py                # every bit: about 300 000 files
    python benchmarks/damage.py --step 50      # every fiftieth bit

Each damaged file must be rejected with a `DashpotError`, or be read to the same values. The script counts four
outcomes: rejected, same values, different values, and other exceptions. The last two are faults. The files are
checkpoints of format 2 and of format 1, which has no checksum of the whole file, and the record, the settings,
`best.json` and `study.json`. A flipped bit in the text of a value, such as a digit of a learning rate, yields a valid
text file with a different value, so that different values of text files are counted but are not faults.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dashpot.comparison import Study, entry, run_study
from dashpot.comparison.study_folder import StudyFolder
from dashpot.data import Batches
from dashpot.errors import DashpotError
from dashpot.runs.records import Run
from dashpot.runs.settings import Settings, read_settings
from dashpot.tasks import Problem, Task, accuracy
from dashpot.training.callbacks.checkpoints import best, latest
from dashpot.training.run.folder import RunFolder
from dashpot.training.run.run import start
from dashpot.training.state import checkpoint_file

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2, dtype=torch.bfloat16)},
    "optimizer": {
        "state": {"weight": {"step": torch.tensor(4.0)}},
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}],
    },
    "random": [{"torch": torch.arange(16, dtype=torch.uint8)}],
    "progress": {"position": [1, 2], "history": [{"train": {"loss": 0.5}}], "means": None},
    "text": "zwölf",
}
"""Content with the types of the state of a fit, in about 2 kB."""
OUTCOMES = ("rejected", "same", "different", "raw")


# ---- damage ---------------------------------------------------------------------------------------------------------


def flips(content: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield copies of a file with one flipped bit, for every `step`-th bit."""
    for bit in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def truncations(content: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield the beginnings of a file, for every `step`-th length."""
    return (content[:length] for length in range(0, len(content), step))


def zeroed(content: bytes, size: int = 512) -> Iterator[bytes]:
    """Yield copies of a file in which one block consists of zeros, as after a power failure."""
    blocks = ((at, content[at : at + size]) for at in range(0, len(content), size))
    return (content[:at] + bytes(len(block)) + content[at + len(block) :] for at, block in blocks if any(block))


def damaged(content: bytes, step: int = 1) -> Iterator[bytes]:
    """Yield all damaged copies of a file."""
    yield from flips(content, step)
    yield from truncations(content, step)
    yield from zeroed(content)


# ---- outcomes -------------------------------------------------------------------------------------------------------


def outcome(path: Path, content: bytes, read: Callable[[Path], Any], expected: Any) -> str:
    """Write a damaged file, read it, and return the outcome."""
    path.write_bytes(content)
    try:
        found = read(path)
    except DashpotError as error:
        return "rejected" if _is_sentence(str(error)) else "raw"
    except Exception as error:
        print(f"{path.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "raw"
    return "same" if same(found, expected) else "different"


def count(path: Path, read: Callable[[Path], Any], step: int = 1) -> Counter[str]:
    """Return the number of damaged copies of a file per outcome; the file itself is restored."""
    content, expected = path.read_bytes(), read(path)
    found: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in damaged(content, step):
            found[outcome(path, each, read, expected)] += 1
    path.write_bytes(content)
    return found


def same(a: Any, b: Any) -> bool:
    """Return whether two values have the same types, structure and bits."""
    if isinstance(a, Tensor):
        equal = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return (
            equal and a.contiguous().view(torch.uint8).equal(b.contiguous().view(torch.uint8))
            if a.dim()
            else (equal and repr(a) == repr(b))
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def _is_sentence(text: str) -> bool:
    return text[:1].isprintable() and text.endswith(".") and "\n" not in text and len(text) < 1000


# ---- files ----------------------------------------------------------------------------------------------------------


def checkpoint(path: Path) -> Path:
    """Write a checkpoint of the current format."""
    checkpoint_file.write(path, STATE)
    return path


def first_format(path: Path) -> Path:
    """Write a checkpoint of format 1, which has no checksum of the whole file."""
    torch.save({"format": 1, "dashpot": "0.1.0", "state": STATE}, path)
    return path


def build() -> Task:
    """Return a task of one batch, for `dashpot train benchmarks/damage.py:build`."""

    def problem(seed: int) -> Problem:
        x, y = torch.arange(8.0).reshape(4, 2), torch.arange(4) % 2
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Linear(2, 2)
        loss, metrics = nn.functional.cross_entropy, {"accuracy": accuracy}
        return Problem(model, Batches(x, y, 4), evaluation=Batches(x, y, 4), loss=loss, metrics=metrics)

    return Task("damage", problem, epochs=1)


def text_files(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Any]]]:
    """Write a run and a study, and yield their text files with the functions that read them."""
    settings = Settings(task=f"{Path(__file__).resolve()}:build", optimizer="sgd", epochs=1, threads=1)
    with contextlib.redirect_stdout(io.StringIO()):
        start(settings, folder / "run")
        run_study(Study(build(), (entry("sgd", "damage"),), (0,), 1), folder / "study")
    yield folder / "run" / "run.toml", lambda path: Settings.of(read_settings(path)).to_dict()
    yield folder / "run" / "run.jsonl", lambda path: _contents(RunFolder(path.parent).run())
    yield folder / "run" / "checkpoints" / "best.json", lambda path: str(best(path.parent))
    yield folder / "study" / "study.json", lambda path: StudyFolder(path.parent).study()
    record = folder / "study" / "runs" / "sgd-seed0.jsonl"
    yield record, lambda path: list(map(_contents, StudyFolder(path.parents[1]).runs()))


def _contents(run: Run | None) -> list[Any]:
    assert run is not None
    return [run.header, run.loss, run.lr, run.epochs, run.end, run.resumed]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="distance between flipped bits")
    step, began, total, faults = parser.parse_args().step, time.perf_counter(), 0, 0
    folder = Path(tempfile.mkdtemp(prefix="dashpot-damage-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        print(f"{'file':<26}{'bytes':>7}" + "".join(f"{name:>11}" for name in OUTCOMES))
        for path, read, text in files(folder):
            found = count(path, read, step)
            total += found.total()
            faults += found["raw"] + (0 if text else found["different"])
            print(f"{path.name:<26}{path.stat().st_size:>7}" + "".join(f"{found[name]:>11}" for name in OUTCOMES))
    finally:
        shutil.rmtree(folder)
    print(f"{total} damaged files in {time.perf_counter() - began:.0f} s, {faults} faults.")
    sys.exit(1 if faults else 0)


def files(folder: Path) -> Iterator[tuple[Path, Callable[[Path], Any], bool]]:
    """Yield each file, the function that reads it, and whether it is a text file."""
    yield checkpoint(folder / "format-2.ckpt"), checkpoint_file.read, False
    yield first_format(folder / "format-1.ckpt"), checkpoint_file.read, False
    yield from ((path, read, True) for path, read in text_files(folder))
    newest = latest(folder / "run" / "checkpoints")
    assert newest is not None
    yield newest, checkpoint_file.read, False


if __name__ == "__main__":
    main()
