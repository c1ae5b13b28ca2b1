"""Malformed states of loggers, which are rejected before the fit changes."""

from __future__ import annotations

import copy
import io

import pytest
from learner_support import StopAt, learner

from dashpot.errors import RunError
from dashpot.training import CSV, Progress, Trackio

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *(("CSV", "columns", value) for value in (3, [1], "abc", None)),
        *(("Progress", "curve", value) for value in (3, {}, {"train": {"size": 0, "groups": []}, "eval": []})),
        ("Progress", "curve", {"train": {"size": 1, "groups": [[1, 1]]}, "eval": []}),
        ("Progress", "curve", {"train": {"size": 1, "groups": []}, "eval": [[1, "a"]]}),
        *(("Trackio", "entries", value) for value in (None, "a", -1, 1.5)),
        *(("Trackio", "recent", value) for value in (3, [[1]], [["a", {}]], [[1, {"a": "b"}]])),
        *(("Trackio", "run", value) for value in (3, {}, {"project": 3, "name": "a", "id": "b"})),
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
