from __future__ import annotations

import sys
from textwrap import dedent

import pytest

from dashpot.errors import ArgumentError, DataError
from dashpot.tasks import evaluate, get

GOOD = """
    from __future__ import annotations
    from dataclasses import dataclass
    import torch
    from dashpot.data import Batches
    from dashpot.tasks import Problem, Task

    @dataclass
    class Options:
        width: int = 1

    def problem(seed):
        x = torch.ones(4, 1)
        return Problem(torch.nn.Linear(1, 1), Batches(x, 2 * x, 2), torch.nn.functional.mse_loss, Batches(x, 2 * x, 4))

    def build(width=1):
        return Task("mine", problem, epochs=2, config={"width": Options(width).width})

    def other(data_dir=None):
        return Task("other", problem, epochs=1, config={"data_dir": str(data_dir)})

    nothing = None

    def wrong():
        return "no task"

    def failing():
        raise RuntimeError("out of luck\\nand more")

    def exiting():
        raise SystemExit(3)
"""


@pytest.fixture
def write(tmp_path):
    def write(source: str):
        path = tmp_path / "my_task.py"
        path.write_text(dedent(source), encoding="utf-8")
        return path

    return write


def test_a_function_of_a_file_gives_the_task(write):
    path = write(GOOD)
    task = get(f"{path}:build")
    assert task.name == "mine"
    assert set(evaluate(task.build(0))) == {"loss"}
    assert get(str(path)).name == get(f"{path}:").name == "mine"
    assert get(f"{path}:build", width=3).config["width"] == 3
    first = get(f"{path}:build").config["file_sha256"]
    path.write_text(path.read_text() + "\n# edited\n")
    assert get(f"{path}:build").config["file_sha256"] != first


def test_what_its_build_raises_or_returns_is_one_sentence(write):
    raising = write(GOOD.replace("x = torch.ones(4, 1)", "raise KeyError('boo')"))
    with pytest.raises(ArgumentError, match=r"Task\.build raised at line .* KeyError"):
        get(str(raising)).build(0)
    wrong = write(GOOD.replace("return Problem(", "return (5, "))
    with pytest.raises(ArgumentError, match=r"must return a dashpot\.tasks\.Problem"):
        get(str(wrong)).build(0)


def test_the_data_folder_is_handed_to_functions_that_take_it(write, tmp_path):
    path = write(GOOD)
    assert get(f"{path}:other", data_dir=tmp_path).config["data_dir"] == str(tmp_path)
    assert get(f"{path}:build", data_dir=tmp_path).config["width"] == 1


def test_nothing_is_written_beside_the_file_and_an_edit_counts_at_once(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    path = write(GOOD)
    get(f"{path}:build")
    write(GOOD.replace('"mine"', '"late"'))
    assert get(f"{path}:build").name == "late"
    assert [p.name for p in tmp_path.iterdir()] == ["my_task.py"]
    assert sys.path == before


def test_files_of_one_name_do_not_meet(write, tmp_path):
    first = get(f"{write(GOOD)}:build")
    second = tmp_path / "folder" / "my_task.py"
    second.parent.mkdir()
    second.write_text(dedent(GOOD).replace("Linear(1, 1)", "Linear(1, 1, bias=False)"), encoding="utf-8")
    assert len(list(get(f"{second}:build").build(0).model.parameters())) == 1
    assert len(list(first.build(0).model.parameters())) == 2


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("bild", r"has no `bild`; a task file defines `def bild\(\) -> dashpot\.tasks\.Task`\.$"),
        ("nothing", r"has no `nothing`; a task file defines"),
        ("wrong", r": wrong\(\) must return a dashpot\.tasks\.Task, got 'no task'\.$"),
        ("failing", r": failing\(\) raised at line 28 RuntimeError: out of luck\.$"),
        ("exiting", r": exiting\(\) raised at line 31 SystemExit: 3\.$"),
    ],
)
def test_a_bad_function_is_one_sentence(write, function, sentence):
    path = write(GOOD)
    with pytest.raises(ArgumentError, match=sentence) as error:
        get(f"{path}:{function}")
    assert str(error.value).startswith(f"Task file {path}")
    assert "\n" not in str(error.value)


def test_options_the_function_does_not_take_are_an_error(write):
    with pytest.raises(ArgumentError, match=r"build\(\) raised TypeError: .*unexpected keyword argument 'depth'\.$"):
        get(f"{write(GOOD)}:build", depth=3)


@pytest.mark.parametrize(
    ("source", "sentence", "cause"),
    [
        ("x = 1\ny = (", r"the file raised at line 2 SyntaxError: '\(' was never closed\.$", SyntaxError),
        (
            "import no_such_module_xyz",
            r"raised at line 1 ModuleNotFoundError: No module named 'no_such_module_xyz'\.$",
            ImportError,
        ),
        ("\n\n1 / 0", r"raised at line 3 ZeroDivisionError: division by zero\.$", ZeroDivisionError),
        ("import sys\nsys.exit(2)", r"raised at line 2 SystemExit: 2\.$", SystemExit),
        ("from dashpot.errors import DataError\nraise DataError('gone')", r"at line 2 DataError: gone\.$", DataError),
    ],
)
def test_a_file_that_fails_is_one_sentence_with_line_and_cause_and_leaves_no_module(write, source, sentence, cause):
    modules = set(sys.modules)
    path = write(source)
    with pytest.raises(ArgumentError, match=sentence) as error:
        get(f"{path}:build")
    assert isinstance(error.value.__cause__, cause)
    assert set(sys.modules) == modules


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(ArgumentError, match=r"Task file .*none\.py cannot be read: No such file or directory\.$"):
        get(f"{tmp_path / 'none.py'}:build")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ArgumentError, match=r"cannot be read: Is a directory\.$"):
        get(f"{tmp_path / 'folder.py'}:build")
