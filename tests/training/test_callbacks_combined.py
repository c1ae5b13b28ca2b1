"""Interactions between callbacks."""

from __future__ import annotations

import errno
import io
import json
from functools import partial

import pytest
import torch
from learner_support import At, call_if, learner, multiply_loss, on_batch, raise_if, weights
from torch import nn

import dashpot as dp
from dashpot.training import CSV, Callback, Checkpoints, Engine, JSONLines, NonFinite, Progress, Recorder, read_newest


def test_skipped_step_resets_loss_scale_of_gradients():
    """The next fp16 step must not use gradients that are still multiplied by the loss scale."""

    class SkipSteps(Callback):
        order = 45

        def step(self, learner, proceed):
            if learner.batch.index != 0:
                proceed()

    def moved(precision):
        one = learner(torch.optim.SGD, lr=1e-3, engine=Engine("cpu", precision=precision))
        if precision == "fp16":
            one.engine.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        before = weights(one)[0]
        torch.manual_seed(0)
        one.fit(1, callbacks=[Recorder("grad_norm"), SkipSteps()])
        return (weights(one)[0] - before).norm().item()

    assert moved("fp16") == pytest.approx(moved("fp32"), rel=0.05)  # half precision has 11 significant bits


def test_skipped_step_keeps_stop_reason_of_other_callback():
    stops = At("after_batch", call_if(lambda one: setattr(one, "stop_reason", "time is up"), on_batch(0)))
    breaks = At("after_loss", call_if(multiply_loss(torch.inf), on_batch(1)))
    one = learner(callbacks=[stops, breaks, NonFinite(then="skip")])
    with pytest.warns(RuntimeWarning, match="non-finite"):
        one.fit(3)
    assert (len(one.history), one.stop_reason) == (1, "time is up")


@pytest.mark.parametrize("probe", ["graph", "differences", "forward"])
def test_hessian_vector_products_use_loss_changed_by_actions(probe):
    """This includes the probes that recompute the losses."""

    class Tenfold(Callback):
        def get_loss(self, learner, proceed):
            proceed()
            learner.batch.loss = learner.batch.loss * 10

    def hessian(*callbacks):
        one = learner(partial(dp.Sophia, probe=probe), lr=0.0, dtype=torch.float64, callbacks=callbacks)
        one.model[3] = nn.Identity()  # dropout would differ from pass to pass
        one.fit(1, evaluate=False)
        return torch.cat([state["hess"].flatten() for state in one.opt.state.values()])

    # Finite differences of gradients use a relative step of 1e-3, so rounding errors are about 1e-16 / 1e-3.
    torch.testing.assert_close(hessian(Tenfold()), 10 * hessian(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [pytest.param(JSONLines, marks=pytest.mark.slow), CSV])
def test_log_absent_from_some_sessions_keeps_its_lines(tmp_path, kind):
    """No line is lost even if the run is killed just after a resume and then resumed from an earlier checkpoint."""

    def fit(epochs, *logs, resume=None):
        kept = Checkpoints(tmp_path / "kept")
        learner(callbacks=[*logs, kept]).fit(epochs, resume=resume)
        return read_newest(tmp_path / "kept")

    def log():
        return kind(tmp_path / "log", append=True)

    state = fit(2, log())
    state = fit(3, resume=state)
    stops = At("after_batch", raise_if(KeyboardInterrupt, on_batch(1)))
    with pytest.raises(KeyboardInterrupt):
        fit(4, log(), Checkpoints(tmp_path / "first", every_steps=1), stops, resume=state)
    fit(4, log(), resume=read_newest(tmp_path / "first"))
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("epoch")]
    assert [json.loads(f"[{line}]")[0] if kind is CSV else json.loads(line)["epoch"] for line in lines] == [1, 2, 4]


def test_broken_terminal_does_not_end_fit():
    class Broken(io.StringIO):
        def write(self, text):
            if "1 " in text:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(text)

    one = learner(callbacks=[Progress(Broken())])
    one.fit(3)
    assert one.steps == 9
