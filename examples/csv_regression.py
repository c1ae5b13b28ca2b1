"""A regression on a CSV file with missing values and text columns, as a task with validation and test data.

Run: python examples/csv_regression.py [FILE.csv TARGET_COLUMN]
     dashpot compare --task examples/csv_regression.py --epochs 10
     dashpot compare --task examples/csv_regression.py --task-options csv=FILE.csv target=COLUMN
Without a file, a small synthetic one is written to houses.csv in the current folder.
"""

import csv as csv_files
import hashlib
import math
import os
import random
import sys
from pathlib import Path
from statistics import fmean, median, pstdev

import torch
from torch import nn

import dashpot as dp
from dashpot.data import Batches, seeded
from dashpot.tasks import Problem, Target, Task, WholeEpoch
from dashpot.training import Learner, one_cycle

MISSING = {"", "?", "na", "n/a", "nan", "none", "null"}
SHARES = {"test": 0.2, "validation": 0.2}  # the other rows are training data


def build(csv=None, target="price", batch_size=32, target_share=0.5, margin_share=0.02, delimiter=","):
    """Return the task. `target_share` and `margin_share` are in standard deviations of the target column.

    A root mean square error of 0.5 standard deviations explains three quarters of the variance.
    """
    path = Path("houses.csv" if csv is None else csv)
    if csv is None and not path.exists():
        write_synthetic(path)
    names, rows = read(path, target, delimiter)
    parts = split(rows)
    columns = [Column(name, rows, parts["train"]) for name in names]
    values = [number for _, number in parts["train"]]
    mean, sd = fmean(values), pstdev(values)
    if sd == 0:
        raise dp.DataError(f"{path}: the column {target!r} must vary, but all training rows have {mean:g}.")
    data = {part: tensors(columns, chosen, mean, sd) for part, chosen in parts.items()}
    inputs = data["train"][0].shape[1]

    def problem(seed):
        with seeded(seed):
            model = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        metrics = {
            "rmse": WholeEpoch(lambda output, y: sd * (output - y).square().mean().sqrt()),
            "mae": lambda output, y: sd * (output - y).abs().sum(),
        }
        train = Batches(*data["train"], batch_size, shuffle=True, seed=seed)
        validation, test = (Batches(*data[part], 1024) for part in ("validation", "test"))
        return Problem(model, train, nn.functional.mse_loss, validation, metrics, test=test)

    return Task(
        name=path.stem,
        build=problem,
        epochs=20,
        target=Target("rmse", target_share * sd, "min"),
        margin=margin_share * sd,
        description=f"{target} from {len(names)} columns of {path.name}, {len(values)} training rows",
        config={
            "data_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "target": target,
            "batch_size": batch_size,
            "rows": {part: len(chosen) for part, chosen in parts.items()},
        },
    )


# ---- reading and splitting -------------------------------------------------------------------------------------------


def read(path, target, delimiter):
    """Return the names of the input columns, and a pair (cells by column, target) for each row that has a target."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv_files.reader(file, delimiter=delimiter)
            table = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except (OSError, UnicodeError, csv_files.Error) as error:
        raise dp.DataError(f"{path} cannot be read as a CSV file ({error}).") from error
    names = table[0][1] if table else []
    if names.count(target) != 1 or len(set(names)) != len(names):
        raise dp.DataError(f"{path} must have unique column names with {target!r} among them, got {', '.join(names)}.")
    rows = []
    for line, cells in table[1:]:
        if len(cells) != len(names):
            raise dp.DataError(f"{path}, line {line}: a row must have {len(names)} cells, got {len(cells)}.")
        row = dict(zip(names, cells, strict=True))
        text = row.pop(target)
        if text.lower() in MISSING:
            continue  # a row without target can neither train nor test
        if number(text) is None:
            raise dp.DataError(f"{path}, line {line}: {target} must be a finite number, got {text!r}.")
        rows.append((row, number(text)))
    return [name for name in names if name != target], rows


def number(text):
    """Return the finite number that `text` contains, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def split(rows):
    """Return the rows of each part, chosen by a hash of the inputs.

    The choice depends neither on a seed nor on other rows: new rows do not move old ones to another part, and rows with
    equal inputs are in the same part.
    """
    parts = {"train": [], "validation": [], "test": []}
    for row in rows:
        digest = hashlib.sha256("\0".join(row[0].values()).encode()).digest()
        place = int.from_bytes(digest[:8], "big") / 2**64
        part = "test" if place < SHARES["test"] else "validation" if place < sum(SHARES.values()) else "train"
        parts[part].append(row)
    if not all(parts.values()):
        counts = ", ".join(f"{len(chosen)} {part}" for part, chosen in parts.items())
        raise dp.DataError(f"The file must have rows with a target for every part, got {counts} rows.")
    return parts


# ---- features, with statistics of the training rows only -------------------------------------------------------------


class Column:
    """Conversion of a column to numbers.

    A column of numbers becomes its standardized values, in which the median replaces missing ones, and an indicator of
    missing values if training rows have any. A text column becomes one indicator for each of its training values; a
    missing value counts as a value, and a value without training rows has zeros only.
    """

    def __init__(self, name, rows, train):
        self.name = name
        cells = [row[name] for row, _ in rows if row[name].lower() not in MISSING]
        self.numeric = all(number(cell) is not None for cell in cells)
        given = [row[name] for row, _ in train]
        known = [number(cell) for cell in given if cell.lower() not in MISSING] if self.numeric else []
        self.has_missing = any(cell.lower() in MISSING for cell in given)
        self.median = median(known) if known else 0.0
        filled = [self.median if cell.lower() in MISSING else number(cell) for cell in given] if self.numeric else [0.0]
        self.mean, self.sd = fmean(filled), pstdev(filled) or 1.0
        self.values = [] if self.numeric else sorted({key(cell) for cell in given})

    def features(self, cell):
        missing = cell.lower() in MISSING
        if not self.numeric:
            return [float(key(cell) == value) for value in self.values]
        value = ((self.median if missing else number(cell)) - self.mean) / self.sd
        return [value, float(missing)] if self.has_missing else [value]


def key(cell):
    """Return the name of the category of a cell; all missing values are one category."""
    return "" if cell.lower() in MISSING else cell


def tensors(columns, rows, mean, sd):
    x = [[value for column in columns for value in column.features(row[column.name])] for row, _ in rows]
    y = [[(target - mean) / sd] for _, target in rows]
    return torch.tensor(x), torch.tensor(y)


# ---- a synthetic file ------------------------------------------------------------------------------------------------


def write_synthetic(path, rows=1000):
    """Write prices of houses that depend on all columns; the year is missing more often for old houses."""
    draw = random.Random(0)
    lines = ["area,rooms,year,heating,district,price"]
    for _ in range(rows):
        area, year = draw.uniform(40, 220), draw.randint(1900, 2020)
        rooms = max(1, round(area / 28 + draw.gauss(0, 0.8)))
        heating = draw.choice(["gas", "oil", "heat pump"])
        district = draw.choice(["north", "south", "east", "old town"])
        price = 2.2 * area + 12 * rooms + 0.9 * (year - 1900) + 60 * (district == "old town") + draw.gauss(0, 25)
        price += {"gas": 0, "oil": -25, "heat pump": 30}[heating]
        known = draw.random() > (0.35 if year < 1950 else 0.05)
        cells = [f"{area:.0f}" if draw.random() > 0.1 else "", rooms, year if known else "NA", heating, district]
        cells[3] = cells[3] if draw.random() > 0.1 else ""
        lines.append(",".join(map(str, [*cells, f"{price:.1f}"])))
    partial = path.with_name(f"{path.name}.{os.getpid()}")  # another process may read the file at any time
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def main(csv=None, target="price"):
    task = build(csv, target)
    learner = Learner.of(problem := task.build(seed=0), dp.AdamW, lr=0.01)
    learner.fit(task.epochs, callbacks=[one_cycle()])
    means = {part: learner.evaluate(getattr(problem, part)) for part in ("train", "evaluation", "test")}
    print(f"{task.description}; target: an rmse of {task.target.value:.3g} on the validation data (evaluation)")
    for part, values in means.items():
        print(f"{part:10}  rmse {values['rmse']:.4g}, mae {values['mae']:.4g}")
    return means


if __name__ == "__main__":
    try:
        means = main(*sys.argv[1:])
    except dp.DataError as error:
        sys.exit(str(error))
