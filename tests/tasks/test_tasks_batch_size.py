"""Number of examples of a batch: the source, the function of the user, or the agreement of shapes."""

from __future__ import annotations

import math
from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.tasks import Problem, evaluate
from dashpot.tasks.batch_size import batch_size, describe, row_counts
from dashpot.tasks.counted_batches import draws_indices
from dashpot.training import Engine, Learner

Pair = namedtuple("Pair", ["image", "mask"])
z = torch.zeros


@dataclass
class Sample:
    image: Any
    label: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (z(4, 2), {4}),
        (np.zeros((3, 5)), {3}),
        (torch.tensor(1.0), None),
        (0.5, None),
        (None, None),
        ("a name", None),
        ([1, 2, 3], {3}),
        (["a", "b"], {2}),
        (("a", "b"), {2}),
        ((0, 1, 1), {3}),
        ([torch.tensor(1), torch.tensor(2)], {2}),
        ([{"boxes": z(k, 4), "label": torch.tensor(0)} for k in (3, 3)], {2}),
        ([z(3, 4), z(1, 4)], {2}),
        ([z(5, 4), z(5, 4)], {2, 5}),
        ([z(5), [z(5, 2), z(5)]], {2, 5}),
        ([["a", "b", "c"], ["d"]], {2}),
        ([object(), object()], {2}),
        ([], {0}),
        ((z(5, 4), z(5)), {5}),
        ((z(5, 4), z(4)), set()),
        ((z(5, 4), 0.5, None), {5}),
        (Pair(z(2, 4), z(2)), {2}),
        ({"ids": z(6, 3), "names": ["a"] * 6, "epoch": 1}, {6}),
        (UserDict(ids=z(6, 3)), {6}),
        (Sample(z(2, 4), [1, 2]), {2}),
        (pack_sequence([z(3), z(2)], enforce_sorted=False), {2}),
        (torch.nested.nested_tensor([z(3), z(2)], layout=torch.jagged), {2}),
        (SimpleNamespace(num_graphs=3, x=z(9)), {3}),
        (SimpleNamespace(batch_size=3, num_graphs=8), {3}),
        (SimpleNamespace(x=z(9)), None),
    ],
)
def test_row_counts(value, expected):
    assert row_counts(value) == expected


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (z(4, 2), z(4), 4),
        (z(4, 2), None, 4),
        (z(4, 2), 0.5, 4),
        (None, z(4), 4),
        ([z(4, 2), z(4, 3)], z(4), 4),  # default_collate returns the columns of tuples as a list
        ([z(3, 8, 8)] * 4, [{"boxes": z(3, 4)}] * 4, 4),
        ([z(3, 8, 8)] * 4, (0, 1, 2, 0), 4),
        ({"a": z(4), "b": z(4)}, z(4), 4),
    ],
)
def test_batch_size_is_the_number_on_which_x_and_y_agree(x, y, expected):
    assert batch_size(x, y) == expected


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (z(12, 4), z(3), r"agree on the number of examples, got x: (12, 4), y: (3,); pass size="),
        ([z(3, 8)] * 4, None, r"got x: list of 4 (3, 8), y: None"),
        ((z(5), z(3)), z(5), r"got x: ((5,), (3,)), y: (5,)"),
        ({"a": z(5), "b": [z(2), z(3)]}, z(3), r"got x: {'a': (5,), 'b': list of 2 (2,), (3,)}, y: (3,)"),
        (None, 0.5, "batches with countable examples, got x: None, y: float; pass size="),
        (tuple(z(2) for _ in range(6)), z(6), "got x: ((2,), (2,), (2,), (2,), ...), y: (6,)"),
    ],
)
def test_batch_size_without_agreement_raises(x, y, text):
    with pytest.raises(ArgumentError) as caught:
        batch_size(x, y)
    assert text in str(caught.value)
    assert batch_size(x, y, size=lambda x, y: 5) == 5


def test_size_function_takes_precedence_over_source():
    assert batch_size(z(3), z(3), known=4, size=lambda x, y: 2) == 2
    assert batch_size(z(12, 4), z(12), known=4) == 4  # tokens of 4 sequences


def test_batch_with_fewer_rows_than_indices_raises():
    with pytest.raises(ArgumentError, match=r"all of their 4 examples, got 3 rows, .* omits examples, pass size="):
        batch_size(z(3, 2), z(3), known=4)
    assert batch_size([z(3, 2)] * 4, [z(3, 4)] * 4, known=4) == 4


@pytest.mark.parametrize("bad", [-1, 1.0, "4", None, True, torch.tensor(1.5), torch.tensor([1, 2])])
def test_invalid_size_raises(bad):
    with pytest.raises(ArgumentError, match=r"^Learner: size must return an integer >= 0, the number of examples, got"):
        batch_size(z(3), z(3), size=lambda x, y: bad)


@pytest.mark.parametrize("good", [4, np.int64(4), torch.tensor(4)])
def test_size_function_may_return_integers_of_any_type(good):
    assert batch_size(None, None, size=lambda x, y: good) == 4


def test_describe_does_not_contain_values():
    text = describe({"a": torch.full((2,), 7.25), "b": ["secret"] * 100, "c": (7.25, None)})
    assert text == "{'a': (2,), 'b': list of 100 str, 'c': (float, None)}"


# ---- evaluation -----------------------------------------------------------------------------------------------------


class Detector(nn.Module):
    """Model of a list of images; the prediction is the sign of the mean."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * torch.stack([image.mean() for image in images])


IMAGES = [torch.full((3, 4 + i % 3), 1.0 if i % 2 else -1.0) for i in range(12)]
TARGETS = [{"boxes": z(i % 4, 4), "label": torch.tensor(int(i % 2 and i not in (1, 5)))} for i in range(12)]


def hits(output, y):
    return sum(int((value > 0) == target["label"]) for value, target in zip(output, y, strict=True))


def detector_loss(output, y):
    return (output - torch.stack([target["label"] for target in y])).square().mean()


class ListStream:
    """Stream of lists of images and targets."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return math.ceil(12 / self.size)

    def epoch(self, index):
        return iter((IMAGES[i : i + self.size], TARGETS[i : i + self.size]) for i in range(0, 12, self.size))


def loader(size):
    pairs: Any = list(zip(IMAGES, TARGETS, strict=True))
    return DataLoader(pairs, size, collate_fn=lambda items: tuple(zip(*items, strict=True)))


@pytest.mark.parametrize("source", [ListStream, loader])
@pytest.mark.parametrize("size", [3, 4, 5, 6, 12])
def test_accuracy_of_ragged_targets_does_not_depend_on_batch_size(source, size):
    """10 of the 12 predictions are correct; counting the boxes gave 2.5, 1.667, 5 and 10 for sizes 3, 4, 6 and 12."""
    problem = Problem(Detector(), source(size), detector_loss, source(size), {"accuracy": hits})
    assert evaluate(problem)["accuracy"] == pytest.approx(10 / 12, rel=1e-15)


def test_evaluate_counts_examples_of_dict_batches():
    """The number of keys was counted instead: 2 per batch."""

    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    x = torch.arange(6.0)
    batches: Any = [({"a": x[part], "b": x[part]}, x[part]) for part in (slice(4), slice(4, 6))]
    problem = Problem(
        Sum(), Batches(x, x, 2), nn.functional.mse_loss, batches, {"large": lambda output, y: (output > 2.0).sum()}
    )
    assert evaluate(problem) == {"loss": pytest.approx(55 / 6, rel=1e-6), "large": pytest.approx(4 / 6)}


def test_evaluate_uses_size_and_weight_of_problem():
    x, y = torch.arange(6.0), torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    problem = Problem(
        nn.Identity(),
        Batches(x, y, 4),
        lambda output, y: (output * y).sum() / y.sum().clamp_min(1),
        Batches(x, y, 4),
        {"rows": lambda output, y: len(output)},
        size=lambda x, y: 2 * len(x),
        weight=lambda output, y: y.sum(),
    )
    assert evaluate(problem) == {"loss": 1.5, "rows": 0.5}


@pytest.mark.parametrize("name", ["size", "weight"])
def test_problem_with_invalid_function_raises(name):
    data = Batches(z(4, 2), z(4), 2)
    with pytest.raises(ArgumentError, match=rf"Problem: {name} must be a function of \(.*, y\) or None, got 3"):
        Problem(nn.Linear(2, 1), data, nn.functional.mse_loss, **cast(Any, {name: 3}))


def test_draws_indices_requires_batches_of_the_sampler():
    class Skips(DataLoader):
        def __iter__(self) -> Any:
            return (batch for batch in super().__iter__() if len(batch[0]) > 1)

    data: Any = [(z(2), 0)] * 4
    assert draws_indices(DataLoader(data, 2))
    assert not draws_indices(Skips(data, 2))
    assert not draws_indices(DataLoader(data, batch_size=None))
    assert not draws_indices([(z(2, 2), z(2))])


@pytest.mark.parametrize("channels", [1, 3])
def test_tuple_of_one_example_is_passed_as_list(channels):
    """The last batch of 5 examples in batches of 2 has one; the model got the image instead of a tuple of images."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images, targets=None):
            assert targets is None
            return self.scale * torch.stack([image.sum() for image in images])

    images = [torch.full((channels, 2, 2), float(i)) for i in range(5)]
    examples: Any = [(image, {"value": image.sum()}) for image in images]
    data: Any = DataLoader(examples, 2, collate_fn=lambda items: tuple(zip(*items, strict=True)))

    def loss(output, y):
        return (output - torch.stack([target["value"] for target in y]) - 1).abs().mean()

    assert evaluate(Problem(Model(), data, loss, data)) == {"loss": 1.0}
    learner = Learner(Model(), data, data, loss=loss, optimizer=torch.optim.SGD, lr=0.0, engine=Engine("cpu"))
    learner.fit(1)
    assert learner.history == [{"train": {"loss": 1.0}, "eval": {"loss": 1.0}}]
    output = learner.predict(data)
    assert output.tolist() == [4.0 * channels * i for i in range(5)]
