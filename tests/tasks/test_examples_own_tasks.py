"""Examples of tasks on the user's own data: a CSV file and a folder of images."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from dashpot.data import Batches
from dashpot.errors import ArgumentError, DataError
from dashpot.tasks import evaluate, get

FOLDER = Path(__file__).parents[2] / "examples"
CSV, IMAGES = str(FOLDER / "csv_regression.py"), str(FOLDER / "image_folder.py")


@pytest.fixture(autouse=True)
def _in_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["example"])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Return a folder of 24 images in each of three classes."""
    folder = tmp_path_factory.mktemp("own") / "shapes"
    runpy.run_path(IMAGES)["write_synthetic"](folder, count=24)
    return folder


def parts(problem) -> dict[str, Batches]:
    return {"train": problem.train, "validation": problem.evaluation, "test": problem.test}


def write_csv(text: str) -> None:
    Path("mine.csv").write_text(text)


def rows(count: int, cell: str = "{i}") -> str:
    return "".join(f"{cell.format(i=i)},{'red' if i % 3 else 'blue'},{2 * i}\n" for i in range(count))


def split_of(count: int) -> dict[str, list[int]]:
    """Return the row numbers of each part for the file of `rows(count)`."""
    split = runpy.run_path(CSV)["split"]
    given = [({"size": str(i), "color": "red" if i % 3 else "blue"}, i) for i in range(count)]
    return {part: [i for _, i in chosen] for part, chosen in split(given).items()}


def test_csv_regression(capsys):
    means = runpy.run_path(CSV, run_name="__main__")["means"]
    assert "test" in capsys.readouterr().out
    assert means["test"]["rmse"] < 50, "the noise has a standard deviation of 25, the prices of 150"
    assert means["test"]["mae"] < means["test"]["rmse"]
    first = Path("houses.csv").read_bytes()
    Path("houses.csv").unlink()
    get(CSV)
    assert Path("houses.csv").read_bytes() == first


@pytest.mark.parametrize("script", [CSV, IMAGES])
def test_scripts_without_data_print_only_the_message(script, monkeypatch):
    monkeypatch.setattr("sys.argv", [script, "missing"])
    with pytest.raises(SystemExit, match=r"^missing "):
        runpy.run_path(script, run_name="__main__")


def test_csv_metrics_are_in_units_of_the_target():
    write_csv("size,color,y\n" + rows(60))
    task = get(CSV, csv="mine.csv", target="y")
    problem = task.build(0)
    with torch.no_grad():
        for p in problem.model.parameters():
            p.zero_()  # predicts the mean of the training rows
    split = split_of(60)
    mean = sum(2.0 * row for row in split["train"]) / len(split["train"])
    held = [2.0 * row - mean for row in split["test"]]
    means = evaluate(problem, split="test")
    assert means["mae"] == pytest.approx(sum(map(abs, held)) / len(held), rel=1e-5)  # float32
    assert means["rmse"] == pytest.approx((sum(value**2 for value in held) / len(held)) ** 0.5, rel=1e-5)
    assert task.config["rows"] == {part: len(chosen) for part, chosen in split.items()}


def test_csv_rows_keep_their_part_when_rows_are_added():
    few, many = split_of(60), split_of(200)
    for part, chosen in few.items():
        assert chosen == [i for i in many[part] if i < 60]
    shares = [len(many[part]) / 200 for part in ("train", "validation", "test")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.12), "four standard errors of a share of 0.2 of 200 rows"


def test_csv_statistics_are_those_of_the_training_rows():
    """Changed validation and test rows change no training row."""
    write_csv("size,color,y\n" + rows(60))
    before = get(CSV, csv="mine.csv", target="y").build(0)
    held = set(range(60)) - set(split_of(60)["train"])
    lines = rows(60).splitlines(keepends=True)
    changed = [line if i not in held else line.replace(f",{2 * i}\n", f",{1000 + i}\n") for i, line in enumerate(lines)]
    write_csv("size,color,y\n" + "".join(changed))
    after = get(CSV, csv="mine.csv", target="y").build(0)
    assert torch.equal(before.train.x, after.train.x)
    assert torch.equal(before.train.y, after.train.y)
    assert not torch.equal(before.evaluation.y, after.evaluation.y)
    x = before.train.x[:, 0]
    assert x.mean().item() == pytest.approx(0, abs=1e-6)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-6)


def test_csv_missing_values_have_the_median_and_an_indicator():
    lines = [f"{'' if i % 4 == 0 else i},{'NA' if i % 5 == 0 else 'red'},{i}\n" for i in range(80)]
    write_csv("size,color,y\n" + "".join(lines))
    problem = get(CSV, csv="mine.csv", target="y").build(0)
    x = problem.train.x
    assert x.shape[1] == 4, "value, indicator, and two categories: missing and red"
    missing = x[:, 1] == 1
    assert 0 < missing.sum() < len(x)
    assert len(x[missing, 0].unique()) == 1
    known = x[~missing, 0].sort().values
    assert known[len(known) // 2 - 1] <= x[missing, 0][0] <= known[len(known) // 2], "the median"
    assert torch.equal(x[:, 2:].sum(1), torch.ones(len(x)))


def test_csv_value_without_training_rows_is_all_zeros():
    lines = [f"{i},red,{i}\n" for i in range(60)]
    held = runpy.run_path(CSV)["split"]([({"size": str(i), "color": "green"}, i) for i in range(60, 200)])["test"]
    write_csv("size,color,y\n" + "".join(lines) + f"{held[0][1]},green,1\n")
    problem = get(CSV, csv="mine.csv", target="y").build(0)
    assert problem.test is not None
    assert problem.test.x[-1, 1:].tolist() == [0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.csv must have unique column names with 'y' among them, got"),
        ("size,size,y\n1,2,3\n", "must have unique column names"),
        ("size,color,z\n1,red,2\n", "must have unique column names with 'y' among them, got size, color, z"),
        ("size,color,y\n1,red\n", "mine.csv, line 2: a row must have 3 cells, got 2"),
        ("size,color,y\n1,red,2\n1,red,inf\n", "mine.csv, line 3: y must be a finite number, got 'inf'"),
        ("size,color,y\n1,red,\n", "must have rows with a target for every part, got 0 train, 0 validation, 0 test"),
        ("size,color,y\n" + "".join(f"{i},red,5\n" for i in range(60)), "the column 'y' must vary, but all training"),
    ],
)
def test_csv_with_invalid_file_raises(text, message):
    write_csv(text)
    with pytest.raises(ArgumentError, match=f"DataError: .*{message}"):
        get(CSV, csv="mine.csv", target="y")


def test_image_folder(capsys, shapes):
    shutil.copytree(shapes, "shapes")
    example = runpy.run_path(IMAGES, run_name="__main__")
    assert "accuracy" in capsys.readouterr().out
    assert example["means"]["test"]["loss"] < 0.9, "below the loss of chance, log 3 = 1.10; measured: 0.50"


@pytest.mark.slow
def test_image_folder_writes_synthetic_images_that_can_be_learned():
    task = get(IMAGES)
    assert task.config["images"] == {"train": 144, "validation": 48, "test": 48}
    assert not list(Path().glob("shapes.*")), "no partial folder remains"
    again = get(IMAGES)
    assert again.config == task.config


def test_images_are_split_by_names_with_equal_shares_of_every_class(shapes):
    task = get(IMAGES, folder=str(shapes))
    problem = task.build(0)
    for part, count in (("train", 14), ("validation", 5), ("test", 5)):
        assert parts(problem)[part].y.bincount().tolist() == [count] * 3
    split = runpy.run_path(IMAGES)["split"]
    files = {"a": [Path(f"{i}.png") for i in range(50)]}
    shuffled = {"a": files["a"][::-1]}
    assert split(files) == split(shuffled)
    chosen = [set(group) for group in split(files).values()]
    assert set.union(*chosen) == set(files["a"])
    assert sum(map(len, chosen)) == 50


def test_images_are_normalized_by_training_images_and_resized(shapes):
    problem = get(IMAGES, folder=str(shapes), size=16).build(0)
    x = problem.train.x
    assert x.shape[1:] == (3, 16, 16)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)  # float32
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(3), atol=1e-5)
    assert torch.equal(next(problem.train.epoch(3))[0], next(problem.train.epoch(3))[0])
    assert not torch.equal(next(problem.train.epoch(3))[0].sum(), next(problem.train.epoch(4))[0].sum())


def test_damaged_images_are_named_in_the_message(shapes):
    shutil.copytree(shapes, "mine")
    Path("mine/disk/000.jpg").write_bytes(b"no image")
    whole = Path("mine/square/001.png").read_bytes()
    Path("mine/square/001.png").write_bytes(whole[: len(whole) // 2])
    Path("mine/square/notes.txt").write_text("left out")
    with pytest.raises(ArgumentError, match=r"mine has damaged images: disk/000\.jpg \(.*Error\), square/001\.png \("):
        get(IMAGES, folder="mine")


def test_image_folder_reads_gray_transparent_and_turned_images(shapes):
    shutil.copytree(shapes, "mine")
    Image.new("L", (20, 30), 7).save("mine/disk/gray.png")
    Image.new("RGBA", (20, 30), (1, 2, 3, 0)).save("mine/disk/transparent.png")
    task = get(IMAGES, folder="mine")
    assert sum(task.config["images"].values()) == 74
    before = task.config["data_sha256"]
    Image.new("L", (20, 30), 8).save("mine/disk/gray.png")
    assert get(IMAGES, folder="mine").config["data_sha256"] != before


def test_image_folder_with_too_few_images_raises(shapes):
    build = runpy.run_path(IMAGES)["build"]
    with pytest.raises(DataError, match="missing must be a folder with a sub-folder of images for each class"):
        build("missing")
    Path("mine/one").mkdir(parents=True)
    with pytest.raises(DataError, match=r"two or more sub-folders .*, got fewer in one \(0\)"):
        build("mine")
