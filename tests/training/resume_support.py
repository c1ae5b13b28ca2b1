"""Fits that are interrupted and resumed, and their comparison with uninterrupted ones."""

from __future__ import annotations

import random

import numpy as np
import torch
from learner_support import StopAt, learner, same, weights
from torch import nn

from dashpot.training import Learner
from dashpot.training.state.checkpoint_file import read, write

EPOCHS = 3


class Resumed:
    """Fit that is interrupted after each number of batches in `stops`, and resumed from a file by a new learner."""

    def __init__(self, make, folder, stops, callbacks=list, epochs=EPOCHS):
        torch.manual_seed(7)
        state = None
        for number, at in enumerate([*stops, None]):
            torch.manual_seed(7 if number == 0 else 99 + number)  # earlier random numbers must not matter
            random.seed(number)
            np.random.seed(number)
            stop = [] if at is None else [StopAt(at)]
            self.learner = make()
            if state is not None:
                for p in self.learner.model.parameters():
                    nn.init.zeros_(p)
            self.learner.fit(epochs, callbacks=[*callbacks(), *stop], resume=state)
            if at is not None:
                write(folder / "state.ckpt", stop[0].state)
                state = read(folder / "state.ckpt")


def uninterrupted(make, callbacks=list, epochs=EPOCHS):
    torch.manual_seed(7)
    random.seed(0)
    np.random.seed(0)
    fitted = make()
    fitted.fit(epochs, callbacks=callbacks())
    return fitted


def assert_same(a: Learner, b: Learner) -> None:
    assert same(weights(a), weights(b))
    assert a.history == b.history
    assert (a.steps, a.loop.position) == (b.steps, b.loop.position)
    assert_equal(a.opt.state_dict(), b.opt.state_dict())


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def left_at(at, make=learner, callbacks=(), epochs=EPOCHS):
    stop, made = StopAt(at), make()
    made.fit(epochs, callbacks=[*callbacks, stop])
    return stop.state, made
