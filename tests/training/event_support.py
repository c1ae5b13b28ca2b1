"""Callback that logs all events and actions, and their expected order."""

from __future__ import annotations

from learner_support import learner

from dashpot.training import Callback
from dashpot.training.callback import ACTIONS, EVENTS

BATCH = ["before_batch", "predict", "after_predict", "get_loss", "after_loss"]
TRAIN = [*BATCH, "backward", "after_backward", "step", "after_step", "zero_grad", "after_batch", "cleanup_batch"]
EVAL = [*BATCH, "after_batch", "cleanup_batch"]
END = ["after_epoch", "cleanup_epoch"]


class EventLog(Callback):
    """Log every event and action."""

    def __init__(self, events=None, name=""):
        self.events, self.name = [] if events is None else events, name


def _event(event):
    return lambda self, learner: self.events.append(self.name + event)


def _action(action):
    def log(self, learner, proceed):
        self.events.append(self.name + action)
        proceed()

    return log


for _name in EVENTS:
    setattr(EventLog, _name, _event(_name))
for _name in ACTIONS:
    setattr(EventLog, _name, _action(_name))


def events_of(change=None, **options):
    """Return the events of an epoch with two batches, with `change` as an additional callback after the log."""
    log = EventLog()
    learner(examples=8, callbacks=[log, *([] if change is None else [change])]).fit(1, **options)
    return log.events
