from __future__ import annotations

import sys
from textwrap import dedent

import pytest

from dashpot.errors import ArgumentError, DataError
from dashpot.tasks import evaluate, get

SOURCE = """
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


def test_get_returns_task_of_function_in_file(write):
    path = write(SOURCE)
    task = get(f"{path}:build")
    assert task.name == "mine"
    assert set(evaluate(task.build(0))) == {"loss"}
    assert get(str(path)).name == get(f"{path}:").name == "mine"
    assert get(f"{path}:build", width=3).config["width"] == 3
    first = get(f"{path}:build").config["file_sha256"]
    path.write_text(path.read_text() + "\n# edited\n")
    assert get(f"{path}:build").config["file_sha256"] != first


def test_build_that_fails_raises_argument_error(write):
    raises = write(SOURCE.replace("x = torch.ones(4, 1)", "raise KeyError('boo')"))
    with pytest.raises(ArgumentError, match=r"Task\.build raised at line .* KeyError"):
        get(str(raises)).build(0)
    wrong = write(SOURCE.replace("return Problem(", "return (5, "))
    with pytest.raises(ArgumentError, match=r"must return a dashpot\.tasks\.Problem"):
        get(str(wrong)).build(0)


def test_data_dir_is_passed_to_functions_with_that_parameter(write, tmp_path):
    path = write(SOURCE)
    assert get(f"{path}:other", data_dir=tmp_path).config["data_dir"] == str(tmp_path)
    assert get(f"{path}:build", data_dir=tmp_path).config["width"] == 1


def test_task_file_is_executed_again_without_writing_bytecode(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    path = write(SOURCE)
    get(f"{path}:build")
    write(SOURCE.replace('"mine"', '"late"'))
    assert get(f"{path}:build").name == "late"
    assert [p.name for p in tmp_path.iterdir()] == ["my_task.py"]
    assert sys.path == before


def test_task_files_with_same_name_are_independent(write, tmp_path):
    first = get(f"{write(SOURCE)}:build")
    second = tmp_path / "folder" / "my_task.py"
    second.parent.mkdir()
    second.write_text(dedent(SOURCE).replace("Linear(1, 1)", "Linear(1, 1, bias=False)"), encoding="utf-8")
    assert len(list(get(f"{second}:build").build(0).model.parameters())) == 1
    assert len(list(first.build(0).model.parameters())) == 2


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("bild", r"has no `bild`; define `def bild\(\) -> dashpot\.tasks\.Task`\.$"),
        ("nothing", r"has no `nothing`; define"),
        ("wrong", r": wrong\(\) must return a dashpot\.tasks\.Task, got 'no task'\.$"),
        ("failing", r": failing\(\) raised at line 28 RuntimeError: out of luck\.$"),
        ("exiting", r": exiting\(\) raised at line 31 SystemExit: 3\.$"),
    ],
)
def test_invalid_function_raises_one_line_message(write, function, message):
    path = write(SOURCE)
    with pytest.raises(ArgumentError, match=message) as error:
        get(f"{path}:{function}")
    assert str(error.value).startswith(f"Task file {path}")
    assert "\n" not in str(error.value)


def test_unknown_option_of_function_raises(write):
    with pytest.raises(ArgumentError, match=r"build\(\) has no parameter 'depth' for this task option\.$"):
        get(f"{write(SOURCE)}:build", depth=3)


@pytest.mark.parametrize(
    ("source", "message", "cause"),
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
def test_failing_file_raises_with_line_and_cause_and_leaves_no_module(write, source, message, cause):
    modules = set(sys.modules)
    path = write(source)
    with pytest.raises(ArgumentError, match=message) as error:
        get(f"{path}:build")
    assert isinstance(error.value.__cause__, cause)
    assert set(sys.modules) == modules


def test_missing_or_unreadable_file_raises(tmp_path):
    with pytest.raises(ArgumentError, match=r"Task file .*none\.py cannot be read: No such file or directory\.$"):
        get(f"{tmp_path / 'none.py'}:build")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(ArgumentError, match=r"cannot be read: Is a directory\.$"):
        get(f"{tmp_path / 'folder.py'}:build")
