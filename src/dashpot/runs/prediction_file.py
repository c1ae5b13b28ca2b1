"""Files of predictions, in the formats .npz and .csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashpot.errors import ArgumentError
from dashpot.runs.files import check_writable, write_error, write_text
from dashpot.utils.atomic_files import write_atomically

if TYPE_CHECKING:
    import numpy as np

ENDINGS = (".npz", ".csv")


def check_prediction_file(path: Path) -> None:
    """Check the name of the file and its folder, before the predictions are computed.

    Raises:
        ArgumentError: If the name does not end in .npz or .csv.
        RunError: If the file cannot be written.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ArgumentError(f"predict: --out must end in {' or '.join(ENDINGS)}, got {path}.")
    check_writable(path)


def write_predictions(path: Path, outputs: Any) -> int:
    """Write the outputs of a model atomically, and return the number of rows.

    A tensor is written under the name `output`; items of tuples and mappings get the names `output.0` or `output.key`.
    bfloat16 becomes float32. A .npz file contains an array for each tensor. A .csv file has the column `index`, and a
    column for each number of a row: `output` for tensors of one dimension, `output_0`, `output_1`, ... for two.

    Args:
        path: Path that ends in .npz or .csv.
        outputs: Tensors in nested tuples and mappings, as returned by `Learner.predict`.

    Raises:
        ArgumentError: If the format cannot represent the outputs.
        RunError: If the file cannot be written.
    """
    arrays = dict(_arrays("output", outputs))
    if path.suffix.lower() == ".csv":
        write_text(path, _csv_text(arrays))
    else:
        import numpy as np

        try:
            write_atomically(path, lambda stream: np.savez(stream, **arrays))  # pyright: ignore[reportArgumentType]
        except OSError as error:
            raise write_error(path, error) from error
    return max((len(array) for array in arrays.values()), default=0)


def _arrays(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays in nested outputs by name."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _arrays(f"{name}.{key}", item)
    elif isinstance(value, tuple):
        names = getattr(value, "_fields", range(len(value)))
        for key, item in zip(names, value, strict=True):
            yield from _arrays(f"{name}.{key}", item)
    elif value is not None:
        raise ArgumentError(
            f"predict: outputs in a file must be tensors of equal shapes, got a {type(value).__name__} for {name}; use "
            "learner.predict or dashpot.training.load_model in Python for other outputs."
        )


def _csv_text(arrays: Mapping[str, np.ndarray]) -> str:
    """Format the arrays as CSV, with floats in the shortest form that is read as the same value."""
    columns: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:
            columns |= {f"{name}_{index}": column for index, column in enumerate(array.T)}
        else:
            raise ArgumentError(
                f"predict: outputs in a .csv file must have at most two dimensions, got shape {array.shape} for "
                f"{name}; choose a .npz file."
            )
    lengths = sorted({len(column) for column in columns.values()})
    if len(lengths) > 1:
        raise ArgumentError(
            f"predict: the columns of a .csv file must have equal lengths, got {', '.join(map(str, lengths))}; choose "
            "a .npz file."
        )
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["index", *columns])
    writer.writerows([index, *map(str, row)] for index, row in enumerate(zip(*columns.values(), strict=True)))
    return stream.getvalue()
