"""Write the files of `tests/golden/compat`: `python tests/compat/make_stored.py FOLDER`, with dashpot on the path.

At the start, FOLDER must contain only `task.py` from the golden files.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shutil
import signal
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import stored_support as stored
import torch

from dashpot.training import Checkpoints, Learner


def make_recipes(out: Path) -> None:
    """Store the description, the text and the weights after 5 steps of each recipe."""
    made = {}
    for name, recipe in stored.recipes().items():
        weights = [p.flatten().tolist() for p in stored.recipe_weights(recipe)]
        made[name] = {"recipe": recipe.to_dict(), "text": repr(recipe), "weights": weights}
    (out / "recipes.json").write_text(json.dumps(made, indent=1) + "\n")


def make_optimizers(out: Path) -> None:
    """Store the weights and the state of every case before and after the last steps."""
    made = {}
    for name, case in stored.CASES.items():
        params = case.params()
        optimizer = case.make(params)
        stored.advance(optimizer, params, range(stored.STEPS_BEFORE), case.quartic)
        saved = io.BytesIO()
        torch.save({"params": [p.detach() for p in params], "state_dict": optimizer.state_dict()}, saved)
        saved.seek(0)
        last = range(stored.STEPS_BEFORE, stored.STEPS_BEFORE + stored.STEPS_AFTER)
        stored.advance(optimizer, params, last, case.quartic)
        made[name] = {**torch.load(saved, weights_only=True), "expected": [p.detach() for p in params]}
    torch.save(made, out / "optimizers.pt")


def make_fit(out: Path, name: str) -> None:
    """Store the checkpoint of a fit that ended within an epoch, and the result of the complete fit."""
    checkpoints = Checkpoints(out / name, every_steps=2, keep=1)
    torch.manual_seed(0)
    stored.learner().fit(stored.EPOCHS, callbacks=[*stored.FITS[name](), checkpoints, stored.StopAt()])
    torch.manual_seed(0)
    whole, callbacks = stored.learner(), stored.FITS[name]()
    whole.fit(stored.EPOCHS, callbacks=callbacks)
    torch.save(stored.fit_result(whole, callbacks), out / f"{name}.pt")


def stop_at(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Send SIGINT during the step with this number."""
    step, done = Learner.step, [0]

    def interrupted(self):
        done[0] += 1
        if done[0] == steps:
            os.kill(os.getpid(), signal.SIGINT)
        step(self)

    patch.setattr(Learner, "step", interrupted)


def make_command(out: Path, name: str, words: str, resume: str, steps: int, collect) -> None:
    """Store the folder of an interrupted command and the result of resuming it."""
    here = Path.cwd()
    os.chdir(out)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, steps)
        assert stored.command(patch, words) == 130
    shutil.copytree(name, "interrupted", ignore=shutil.ignore_patterns(".workers"))
    with pytest.MonkeyPatch.context() as patch:
        assert stored.command(patch, resume) == 0
    Path(f"{name}.json").write_text(json.dumps(collect(Path(name)), indent=1) + "\n")
    shutil.rmtree(name)
    Path("interrupted").rename(name)
    os.chdir(here)


if __name__ == "__main__":
    torch.set_num_threads(1)
    platform.release = lambda: ""  # not compared by the tests
    folder = Path(sys.argv[1]).absolute()
    make_recipes(folder)
    make_optimizers(folder)
    for fit in stored.FITS:
        make_fit(folder, fit)
    with redirect_stdout(sys.stderr):
        make_command(folder, "run", stored.TRAIN, "train --resume run", 7, stored.run_result)
        make_command(folder, "study", stored.COMPARE, stored.COMPARE, 29, stored.study_result)
