"""Tasks of many forms, each with a function that returns its training data for any batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dashpot.data import Batches
from dashpot.training import Accumulate, Engine, Learner

EXAMPLES, BATCH = 19, 8
"""The last batch has 3 examples: in two processes 2 and 1, in micro-batches of 4 a single micro-batch of 3."""
IGNORED = -100


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def _labels(*shape: int, classes: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def _cross_entropy(output: Tensor, y: Any) -> Tensor:
    return nn.functional.cross_entropy(output, _label(y))


def _label(y: Any) -> Tensor:
    """Return the labels of a batch in any of the forms of this module."""
    if isinstance(y, dict):
        return y["label"]
    return torch.stack([item["label"] for item in y]) if isinstance(y, list) else y


def _hits(output: Tensor, y: Any) -> Tensor:
    return (output.argmax(1) == _label(y)).sum()


def _slices(batch_size: int) -> list[slice]:
    return [slice(at, at + batch_size) for at in range(0, EXAMPLES, batch_size)]


# ---- models ---------------------------------------------------------------------------------------------------------


class Named(nn.Module):
    """Model of two named inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(self.left(a)) + self.right(b)


class Ragged(nn.Module):
    """Model of a list of tensors with different numbers of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: list[Tensor]) -> Tensor:
        # FSDP2 requires the same number of calls of a layer on every rank.
        rows = self.layer(torch.cat(x)).tanh().split([len(rows) for rows in x])
        return torch.stack([part.mean(0) for part in rows])


class Tokens(nn.Module):
    """Language model of padded tokens; the output has the shape (examples, classes, tokens)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Embedding(7, 5), nn.Linear(5, 7)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.tanh(self.embed(ids) * mask[..., None])
        scores = self.layer(hidden.flatten(0, 1)).unflatten(0, ids.shape)
        return scores.transpose(1, 2).clone()  # FSDP2 warns about views


@dataclass
class Graphs:
    """Batch of graphs, whose nodes are concatenated; not a container of rows."""

    nodes: Tensor
    owner: Tensor
    num_graphs: int
    moves: list[torch.device] = field(default_factory=list)

    def to(self, device: torch.device) -> Graphs:
        return Graphs(self.nodes.to(device), self.owner.to(device), self.num_graphs, [*self.moves, device])


class GraphModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, graphs: Graphs) -> Tensor:
        assert len(graphs.moves) == 1, "moved once to the device"
        return torch.zeros(graphs.num_graphs, 3).index_add(0, graphs.owner, self.layer(graphs.nodes).tanh())


# ---- data -----------------------------------------------------------------------------------------------------------

ROWS = [_draw(1 + i % 4, 4, seed=i) for i in range(EXAMPLES)]
LABELS = _labels(EXAMPLES)
IDS, MASK = _labels(EXAMPLES, 6, classes=7), (_labels(EXAMPLES, 6, classes=5, seed=2) > 1).float()
NEXT = torch.where(MASK.bool(), _labels(EXAMPLES, 6, classes=7, seed=3), IGNORED)
NEXT[8:12] = IGNORED  # with batches of 4, a micro-batch without a counted token
A, B = _draw(EXAMPLES, 4), _draw(EXAMPLES, 2, seed=5)


class Items(Dataset):
    """Map-style data set of a function of the index."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Endless(IterableDataset):
    """Iterable of batches without a length."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Any]:
        return iter([(A[part], LABELS[part]) for part in _slices(self.batch_size)])


def _token_loss(output: Tensor, y: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    counted = y["next"] != IGNORED
    return nn.functional.cross_entropy(output, y["next"], reduction="sum"), counted.sum()


def _token_hits(output: Tensor, y: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    counted = y["next"] != IGNORED
    return ((output.argmax(1) == y["next"]) & counted).sum(), counted.sum()


def _collate_triples(items: list[Any]) -> Any:
    a, b, label = map(torch.stack, zip(*items, strict=True))
    return (a, b), label


def _collate_graphs(items: list[Any]) -> Any:
    nodes, labels = zip(*items, strict=True)
    owner = torch.cat([torch.full((len(part),), i) for i, part in enumerate(nodes)])
    return Graphs(torch.cat(nodes), owner, len(nodes)), torch.stack(labels)


@dataclass(frozen=True)
class Row:
    """A task of the table.

    Attributes:
        model: Class of the model.
        data: Function from a batch size to the training data.
        options: Arguments of the learner.
        shards: Whether the data can be divided over several processes.
    """

    model: Callable[[], nn.Module]
    data: Callable[[int], Any]
    options: dict[str, Any] = field(default_factory=dict)
    shards: bool = True

    def learner(self, batch_size: int = BATCH, engine: Engine | None = None, **options: Any) -> Learner:
        """Return a learner with `batch_size` examples per batch, and 8 examples per step."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = self.model()
        callbacks = [Accumulate(BATCH // batch_size), *options.pop("callbacks", [])]
        shared: dict[str, Any] = {"loss": _cross_entropy, "metrics": {"hits": _hits}, **self.options}
        shared = {"optimizer": torch.optim.SGD, "lr": 0.5, **shared, **options}
        return Learner(
            model, self.data(batch_size), self.data(5), engine=engine or Engine("cpu"), callbacks=callbacks, **shared
        )


TABLE = {
    "images": Row(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)),
        lambda size: Batches(_draw(EXAMPLES, 1, 3, 3), LABELS, size, shuffle=size != 5, seed=2),
    ),
    "dicts": Row(
        Named, lambda size: [({"a": A[part], "b": B[part]}, {"label": LABELS[part]}) for part in _slices(size)]
    ),
    "ragged": Row(
        Ragged, lambda size: [(ROWS[part], [{"label": label} for label in LABELS[part]]) for part in _slices(size)]
    ),
    "ragged loader": Row(
        Ragged,
        lambda size: DataLoader(
            Items(lambda i: (ROWS[i], {"label": LABELS[i]})),
            size,
            collate_fn=lambda items: [[x for x, _ in items], [y for _, y in items]],
        ),
    ),
    "tokens": Row(
        Tokens,
        lambda size: DataLoader(Items(lambda i: ({"ids": IDS[i], "mask": MASK[i]}, {"next": NEXT[i]})), size),
        {"loss": _token_loss, "metrics": {"hits": _token_hits}},
    ),
    "triples": Row(
        Named, lambda size: DataLoader(Items(lambda i: (A[i], B[i], LABELS[i])), size, collate_fn=_collate_triples)
    ),
    "graphs": Row(
        GraphModel, lambda size: DataLoader(Items(lambda i: (ROWS[i], LABELS[i])), size, collate_fn=_collate_graphs)
    ),
    "iterable": Row(lambda: nn.Linear(4, 3), Endless, shards=False),
}
