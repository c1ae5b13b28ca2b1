from __future__ import annotations

import inspect
import json

import pytest
import torch
from local_tasks import LOCAL_TASKS

from dashpot.errors import ArgumentError
from dashpot.names import TASKS, load
from dashpot.tasks import Task, evaluate, get


@pytest.mark.parametrize("name", LOCAL_TASKS)
def test_task_satisfies_contract(name):
    task = get(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.description
    assert json.loads(json.dumps(task.config)) == task.config
    problem = task.build(0)
    assert set(evaluate(problem)) == {"loss", *problem.metrics}
    assert task.target.metric in evaluate(problem)
    assert len(list(problem.train.epoch(1))) == len(problem.train)
    x, y = next(problem.train.epoch(0))
    loss = problem.loss(problem.model(x), y)
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in problem.model.parameters())


@pytest.mark.parametrize("name", LOCAL_TASKS)
def test_task_with_same_seed_trains_identically(name):
    def weights():
        problem = get(name).build(11)
        optimizer = torch.optim.SGD(problem.model.parameters(), lr=1e-3)
        for (x, y), _ in zip(problem.train.epoch(0), range(3), strict=False):
            optimizer.zero_grad()
            problem.loss(problem.model(x), y).backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in problem.model.parameters()])

    assert torch.equal(weights(), weights())


OPTIONS = [
    (name, option)
    for name, path in TASKS.items()
    for option in inspect.signature(load(path)).parameters
    if option != "data_dir"
]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_get_with_invalid_option_raises_before_data_are_searched(name, option, tmp_path):
    with pytest.raises(ArgumentError, match=f"^{name}: {option} must be "):
        get(name, data_dir=tmp_path / "gone", **{option: "x y"})


def test_get_unknown_name_suggests_nearest():
    with pytest.raises(ArgumentError, match=r"^Unknown task 'fashon-mnist': did you mean 'fashion-mnist'"):
        get("fashon-mnist")


def test_get_with_non_string_raises():
    with pytest.raises(ArgumentError, match=r"^get: spec must be a string, got 3"):
        get(3)
