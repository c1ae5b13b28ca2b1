"""Batches of many forms: moved to the device, and divided over ranks."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from dashpot.errors import ArgumentError
from dashpot.training.distributed.data_sharding import move_batch, slice_examples

Pair = namedtuple("Pair", ["image", "mask"])
z = torch.zeros
DEVICE = torch.device("meta")


@dataclass(frozen=True)
class Sample:
    image: Any
    name: str


class Movable:
    """Object with a method `to` of any signature, which records its arguments."""

    def __init__(self, to):
        self.calls = []
        self._to = to

    def to(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self._to(self)


class Plain:
    def __init__(self):
        self.devices = []

    def to(self, device):
        self.devices.append(device)
        return self


def moved(value):
    return move_batch(value, lambda tensor: tensor.to(DEVICE), DEVICE)


# ---- moving ---------------------------------------------------------------------------------------------------------


def test_nested_tensors_are_moved_and_containers_keep_their_class():
    value = {"a": [z(2), (z(3), "text")], "b": Pair(z(1), None), "c": UserDict(x=z(2)), "d": OrderedDict(x=z(2))}
    found = moved(value)
    assert [type(found[key]) for key in "abcd"] == [list, Pair, UserDict, OrderedDict]
    inner = [found["a"][0], found["a"][1][0], found["b"].image, found["c"]["x"], found["d"]["x"]]
    assert all(tensor.device == DEVICE for tensor in inner)
    assert found["a"][1][1] == "text"
    assert value["c"]["x"].device.type == "cpu", "the batch of the source is unchanged"


def test_dataclass_is_moved_by_field():
    sample = Sample(z(2), "a")
    found = moved([sample])[0]
    assert (found.image.device, found.name, sample.image.device.type) == (DEVICE, "a", "cpu")


def test_objects_are_moved_by_their_method():
    accepts, in_place, plain = Movable(lambda self: "moved"), Movable(lambda self: None), Plain()
    assert moved({"x": [accepts, in_place, plain]}) == {"x": ["moved", in_place, plain]}
    assert accepts.calls == in_place.calls == [((DEVICE,), {"non_blocking": True})]
    assert plain.devices == [DEVICE]


def test_packed_sequence_is_moved():
    packed = moved(pack_sequence([z(3), z(2)]))
    assert packed.data.device == DEVICE
    assert packed.batch_sizes.device.type == "cpu"


def test_values_without_tensors_are_kept():
    module, array = nn.Linear(1, 1), np.zeros(2)
    assert moved(module) is module
    assert moved(array) is array
    assert moved(torch.Tensor) is torch.Tensor


# ---- slicing --------------------------------------------------------------------------------------------------------


def test_slices_of_all_forms():
    rows = torch.arange(5)
    value = {
        "tensor": rows,
        "array": np.arange(5),
        "list": ["a", "b", "c", "d", "e"],
        "strings": ("a", "b", "c", "d", "e"),
        "columns": (rows, [rows, rows]),
        "named": Pair(rows, None),
        "user": UserDict(x=rows),
        "sample": Sample(rows, "name"),
        "constants": (0.5, None, "text", (1, 2)),
        "ragged": [z(k, 4) for k in range(1, 6)],
        "dicts": [{"boxes": z(5, 4), "label": torch.tensor(k)} for k in range(5)],
    }
    found = slice_examples(value, slice(3, 5), 5)
    assert found["tensor"].tolist() == found["array"].tolist() == [3, 4]
    assert found["list"] == ["d", "e"]
    assert found["strings"] == ("d", "e")
    assert [part.tolist() for part in (found["columns"][0], *found["columns"][1])] == [[3, 4]] * 3
    assert found["named"].image.tolist() == found["user"]["x"].tolist() == found["sample"].image.tolist() == [3, 4]
    assert found["constants"] == (0.5, None, "text", (1, 2))
    assert [part.shape for part in found["ragged"]] == [(4, 4), (5, 4)]
    assert [target["boxes"].shape for target in found["dicts"]] == [(5, 4)] * 2
    assert [target["label"].item() for target in found["dicts"]] == [3, 4]


def test_slice_of_object_with_counted_slices():
    class Bag:
        def __init__(self, rows):
            self.rows = rows

        batch_size = property(lambda self: len(self.rows))

        def __getitem__(self, part):
            return Bag(self.rows[part])

    assert slice_examples(Bag([1, 2, 3]), slice(1, 3), 3).rows == [2, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (z(3, 2), r"tensors with a row for each example, got shape \(3, 2\) in a batch of 2; with several processes"),
        ([z(2, 3), z(2, 4)], "list of 2 items with 2 rows each, .* for several inputs, yield a tuple in place"),
        ([1, 2, 3], "lists with an item for each of the 2 examples, got list of 3 int; with several processes"),
        (pack_sequence([z(3), z(2)]), "yields PackedSequence, which cannot be sliced into examples"),
        (torch.nested.nested_tensor([z(3), z(2)], layout=torch.jagged), "yields NestedTensor, which cannot be sliced"),
        (object(), "yields object, which cannot be sliced into examples; with several processes, use a map-style"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_batches_that_cannot_be_sliced_raise(value, text):
    with pytest.raises(ArgumentError, match=f"^Learner: train .*{text}"):
        slice_examples({"x": value}, slice(1), 2)


def test_list_of_one_example_is_not_ambiguous():
    assert [part.shape for part in slice_examples([z(1, 3)], slice(1), 1)] == [(1, 3)]
