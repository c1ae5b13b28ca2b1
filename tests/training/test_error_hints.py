"""Errors of torch in models, losses and loaders, replaced by messages that state the fix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learner_support import X, Y, linear_learner, pairs
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import dashpot as dp
from dashpot.data import Batches
from dashpot.errors import ArgumentError
from dashpot.training import Engine, Learner
from dashpot.training.error_hints import check_device, explain_forward
from dashpot.training.losses import scalar_loss


def message(train, **options):
    """Return the message of the error of a fit, which is one line and has torch's error as its cause."""
    subject = linear_learner(train, **options)
    with pytest.raises(ArgumentError) as caught:
        subject.fit(1)
    text = str(caught.value)
    assert text.startswith("Learner: ")
    assert "\n" not in text
    assert len(text) < 400
    if not text.startswith(("Learner: train must yield", "Learner: model must have")):
        assert isinstance(caught.value.__cause__, (RuntimeError, ValueError))
    return text


def batches(x=None, y=None):
    return [(X if x is None else x, Y if y is None else y)]


# ---- model ----------------------------------------------------------------------------------------------------------


def test_batch_norm_of_one_example():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert message(Batches(X[:9], Y[:9], 4), model=model) == (
        "Learner: batch norm in training mode needs several examples, but a batch has one on this process; omit the "
        "last batch (drop_last=True), change batch_size, or use group norm."
    )


@pytest.mark.parametrize(
    ("model", "x", "name", "dtype"),
    [
        (nn.Linear(3, 2), X.double(), "x", "torch.float64"),
        (nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2)), X.double(), "x", "torch.float64"),
        (nn.Linear(3, 2), X.long(), "x", "torch.int64"),
        (nn.Sequential(nn.Conv1d(3, 2, 1), nn.Flatten()), X.to(torch.uint8)[:, :, None], "x", "torch.uint8"),
        (nn.Bilinear(3, 3, 2), {"input1": X, "input2": X.double()}, 'x["input2"]', "torch.float64"),
        (nn.Bilinear(3, 3, 2), (X, X.double()), "x[1]", "torch.float64"),
    ],
    ids=["double", "layer norm", "integers", "bytes", "dict", "tuple"],
)
def test_input_of_wrong_dtype(model, x, name, dtype):
    text = message(batches(x), model=model)
    fix = ", or the model, as in model.to(torch.float64)" if dtype == "torch.float64" else ""
    assert text == (
        f"Learner: {name} must have the dtype of the model's parameters, torch.float32, got {dtype}; convert the data, "
        f"as in x.to(torch.float32){fix}."
    )


def test_indices_of_wrong_dtype():
    model = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 2))
    text = message(batches(torch.ones(12, 3)), model=model)
    assert text == "Learner: x must contain integer indices, got torch.float32; convert it, as in x.long()."


def test_tensor_of_the_model_on_other_device():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.shift = nn.Linear(3, 2), torch.ones(2, device="meta")

        def forward(self, x):
            return self.layer(x) + self.shift

    text = message(batches(), model=Shift())
    assert text.startswith("Learner: the model must use tensors on one device; its input and parameters are on cpu.")
    assert "Register other tensors of the model as buffers" in text


def test_model_without_parameters():
    assert message(batches(), model=nn.Flatten()) == (
        "Learner: model must have parameters, got Flatten without any; register tensors as nn.Parameter, and lists of "
        "modules as nn.ModuleList."
    )


def test_unknown_errors_are_unchanged():
    class Broken(nn.Linear):
        def forward(self, x):
            raise RuntimeError("of an unknown type")

    subject = linear_learner(batches(), model=Broken(3, 2))
    with pytest.raises(RuntimeError, match="of an unknown type"):
        subject.fit(1)


def test_unused_parameters_are_named():
    """The message of DDP, as raised with two processes in distributed_message_checks.py, has indices."""
    subject = linear_learner(batches(), model=nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    error = RuntimeError(
        "Expected to have finished reduction in the prior iteration before starting a new one. ...\nParameter indices "
        "which did not receive grad for rank 0: 2 3\n In addition, you can set the environment variable ..."
    )
    with pytest.raises(ArgumentError, match=r"but some were not: 1\.weight, 1\.bias; pass Engine\(find_unused"):
        explain_forward(subject, (X,), {}, error)


# ---- loss -----------------------------------------------------------------------------------------------------------

CROSS_ENTROPY = functional.cross_entropy


@pytest.mark.parametrize(
    ("loss", "y", "expected"),
    [
        (CROSS_ENTROPY, Y.float(), "class labels must have dtype torch.int64, got torch.float32; convert them, as in"),
        (CROSS_ENTROPY, Y.int(), "class labels must have dtype torch.int64, got torch.int32"),
        (
            CROSS_ENTROPY,
            Y[:, None],
            "class labels must have shape (12,) for outputs of shape (12, 2), got (12, 1)",
        ),
        (
            CROSS_ENTROPY,
            Y.repeat(2, 1).T,
            "class probabilities must have dtype torch.float32, got torch.int64",
        ),
        (lambda output, y: CROSS_ENTROPY(output, y[:6]), Y, "y must have one label per row of the output, 12"),
        (CROSS_ENTROPY, torch.eye(2).long()[Y], "class probabilities must have dtype torch.float32, got torch.int64"),
        (functional.binary_cross_entropy_with_logits, Y, "y must have the shape of the output, (12, 2), got (12,)."),
        (functional.mse_loss, X, "y must have the shape of the output, (12, 2), got (12, 3)."),
        (
            functional.huber_loss,
            X[:, :2].double(),
            "y must have the dtype of the output, torch.float32, got torch.float64",
        ),
        (
            functional.binary_cross_entropy_with_logits,
            torch.eye(2).long()[Y],
            "y must have the dtype of the output, torch.float32, got torch.int64; convert it, as in y.to(",
        ),
        (
            lambda output, y: CROSS_ENTROPY(output, y, weight=torch.ones(2, device="meta")),
            Y,
            "the loss must use tensors on one device; output and y are on cpu. Move other tensors there",
        ),
    ],
    ids=[
        *("float labels", "int32 labels", "column of labels", "table of labels", "too few labels", "one-hot integers"),
        *("shape", "width", "double targets", "integer targets", "device"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_targets_of_wrong_dtype_or_shape(loss, y, expected):
    assert expected in message(batches(y=y), loss=loss)


def test_loss_on_other_device():
    with pytest.raises(ArgumentError, match="the loss must be on the device of the model, cpu, got meta"):
        check_device(torch.zeros((), device="meta"), torch.device("cpu"))
    subject = linear_learner(batches(), loss=lambda output, y: output.mean().to("meta"))
    with pytest.raises(ArgumentError, match="got meta"):
        subject.fit(1)


# ---- data and arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "got"),
    [
        ((X, X, Y), "a tuple of 3 items; combine them, as in ((a, b), y)"),
        ([X], "a list of 1 item; add the targets."),
        (X, "a tensor of shape (12, 3) and dtype float32"),
        (
            {"input_ids": X, "labels": Y},
            "a mapping with the keys input_ids, labels; separate the targets in the collate function, as in (x, "
            "x.pop('labels')).",
        ),
    ],
    ids=["triple", "single", "tensor", "dict"],
)
def test_items_other_than_pairs(item, got):
    assert message([item]).startswith(f"Learner: train must yield pairs (x, y), got {got}")


def test_triples_of_a_loader():
    loader = DataLoader(TensorDataset(X, X, Y), batch_size=4)
    assert "got a list of 3 items" in message(loader)


def test_dataset_without_loader():
    with pytest.raises(ArgumentError, match=r"TensorDataset.*; pass DataLoader\(dataset, batch_size=\.\.\.\)\.$"):
        linear_learner(TensorDataset(X, Y))


LARGE = [torch.randn(50, 50), np.zeros((60, 60)), [torch.randn(9, 9)] * 100, list(range(10**5)), nn.Linear(9, 9)]


@pytest.mark.diagonal
@pytest.mark.parametrize("value", LARGE, ids=["tensor", "array", "tensors", "numbers", "module"])
@pytest.mark.parametrize(
    "call",
    [
        lambda value: linear_learner(pairs(), model=value if not isinstance(value, nn.Module) else [value] * 30),
        lambda value: linear_learner(pairs(), loss=value if not isinstance(value, nn.Module) else [value]),
        lambda value: linear_learner(pairs(), metrics=value),
        lambda value: linear_learner(pairs(), callbacks=[value]),
        lambda value: linear_learner(pairs(), dp.SGD, lr=value).fit(1),
        lambda value: linear_learner(pairs()).fit(value),
        lambda value: Batches(X, Y, value),
        lambda value: Batches(X, Y, 4, augment=value if not isinstance(value, nn.Module) else [value]),
        lambda value: Engine("cpu", precision=value),
        lambda value: dp.AdamW([X.clone().requires_grad_()], lr=value),
        lambda value: dp.tasks.Problem(model=value, train=value, loss=value),
    ],
    ids=["model", "loss", "metrics", "callbacks", "lr", "epochs", "size", "augment", "precision", "dashpot", "problem"],
)
def test_messages_have_no_contents_of_large_values(call, value):
    with pytest.raises((ArgumentError, TypeError)) as caught:
        call(value)
    assert len(str(caught.value)) < 700
    assert "tensor(" not in str(caught.value)
    assert "array(" not in str(caught.value)


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "flat"),
    [((2, 6, 5), (2, 6)), ((2, 3, 4, 5), (2, 3, 4))],
    ids=["tokens", "pixels"],
)
def test_class_scores_in_last_dimension(shape, flat):
    output, y = torch.zeros(shape), torch.zeros(flat, dtype=torch.int64)
    with pytest.raises(ArgumentError) as caught:
        scalar_loss(functional.cross_entropy, output, y)
    assert str(caught.value) == (
        f"Learner: class scores must be in dimension 1 of the output, not in the last, for y of shape {flat}, got an "
        f"output of shape {shape}; flatten both in the loss, as in cross_entropy(output.flatten(0, {len(flat) - 1}), "
        "y.flatten()), or use output.movedim(-1, 1)."
    )
    flattened = functional.cross_entropy(output.flatten(0, len(flat) - 1), y.flatten())
    torch.testing.assert_close(functional.cross_entropy(output.movedim(-1, 1), y), flattened)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss": nn.MSELoss}, "Learner: loss must be an instance, such as MSELoss(), got the class MSELoss."),
        ({"engine": "cpu"}, "Learner: engine must be a dashpot.training.Engine or None, got 'cpu'."),
    ],
)
def test_arguments_of_wrong_type(options, expected):
    given = {"loss": functional.mse_loss, "engine": Engine("cpu")} | options
    with pytest.raises(ArgumentError) as caught:
        Learner(nn.Linear(3, 2), batches(), optimizer=dp.SGD, **given)
    assert str(caught.value) == expected
