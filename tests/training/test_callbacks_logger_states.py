"""Malformed states of loggers, which are rejected before the fit changes."""

from __future__ import annotations

import copy
import io

import pytest
from learner_support import StopAt, learner

from dashpot.errors import RunError
from dashpot.training import CSV, Progress, Trackio

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def cases(name, key, value, *slow):
    """Return parameters for the values of a key of the state of a callback; the first one is fast, the others slow."""
    return [(name, key, value), *(pytest.param(name, key, other, marks=pytest.mark.slow) for other in slow)]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *cases("CSV", "columns", [1], 3, "abc", None),
        *cases("Progress", "curve", {"train": {"size": 0, "groups": []}, "eval": []}, 3, {}),
        *cases("Progress", "curve", {"train": {"size": 1, "groups": [[1, 1]]}, "eval": []}),
        *cases("Progress", "curve", {"train": {"size": 1, "groups": []}, "eval": [[1, "a"]]}),
        *cases("Trackio", "entries", -1, None, "a", 1.5),
        *cases("Trackio", "recent", [[1, {"a": "b"}]], 3, [[1]], [["a", {}]]),
        *cases("Trackio", "run", {"project": 3, "name": "a", "id": "b"}, 3, {}),
    ],
)
def test_malformed_state_is_rejected(name, key, value, tmp_path, monkeypatch):
    def callbacks():
        return [CSV(tmp_path / "log.csv"), Progress(io.StringIO(), plot=True), *([Trackio("p")] if trackio else [])]

    trackio = False
    stop = StopAt(4)
    learner().fit(2, callbacks=[*callbacks(), stop])
    trackio = name == "Trackio"
    state = copy.deepcopy(stop.state)
    valid = {"run": None, "entries": 0, "recent": [], **{k: state["callbacks"]["CSV"][k] for k in ("lr", "seconds")}}
    state["callbacks"].setdefault(name, valid)[key] = value
    before, one = (tmp_path / "log.csv").read_bytes(), learner()
    with pytest.raises(RunError, match=rf"callbacks\.{name}\.{key}.* must be|callbacks\.{name}\.{key}.* is missing"):
        one.fit(2, callbacks=callbacks(), resume=state)
    assert (tmp_path / "log.csv").read_bytes() == before
    assert one.steps == 0
