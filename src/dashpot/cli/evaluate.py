"""The commands `dashpot evaluate` and `dashpot predict`, for the model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from dashpot.cli.first_line import is_first_process, print_first_line
from dashpot.constraints import OneOf, check
from dashpot.errors import ArgumentError
from dashpot.runs.prediction_file import check_prediction_file

RunArgument = Annotated[Path, Parameter(help="Folder of a run of `dashpot train`.")]
Which = Annotated[str, Parameter(help="Checkpoint to load: best or last.")]
Accelerator = Annotated[
    str | None, Parameter(help="Device type: auto, cpu, cuda or mps; defaults to the setting of the run.")
]
WHICH = OneOf(("best", "last"))
ACCELERATORS = OneOf((None, "auto", "cpu", "cuda", "mps"))


def evaluate(
    run: RunArgument,
    /,
    *,
    split: Annotated[
        str | None,
        Parameter(
            help="Data: evaluation (validation data, the default), test, train, or a split of the task's problem."
        ),
    ] = None,
    which: Which = "best",
    accelerator: Accelerator = None,
    json: Annotated[bool, Parameter(help="Print the result as a line of JSON.")] = False,
) -> None:
    """Print the loss and the metrics of the model of a run.

    The weights are those that the run evaluates: with --ema, the averages.
    """
    check("evaluate", "which", which, WHICH)
    check("evaluate", "accelerator", accelerator, ACCELERATORS)
    if not json:
        print_first_line(f"Evaluating the {which} checkpoint of {run}.")
    from dashpot.runs.table import text_table
    from dashpot.training.run.inference import evaluate_run
    from dashpot.utils.strict_json import encode

    found = evaluate_run(run, split, which, accelerator)
    if not is_first_process():
        return
    if json:
        print(encode({"run": str(run), "which": which, **found._asdict()}))
        return
    print(f"Split {found.split}, after epoch {found.epoch} (step {found.steps}):")
    print(text_table(["metric", "value"], [[name, f"{value:.6g}"] for name, value in found.means.items()]))


def predict(
    run: RunArgument,
    /,
    *,
    out: Annotated[Path | None, Parameter(help="File of the outputs, which ends in .npz or .csv.")] = None,
    split: Annotated[
        str | None,
        Parameter(
            help="Data: evaluation, test, train, or a split of the task's problem; defaults to the unlabelled split "
            "predict if the task has one, else to evaluation."
        ),
    ] = None,
    which: Which = "best",
    accelerator: Accelerator = None,
) -> None:
    """Write the outputs of the model of a run to a file, in the order of the data."""
    if out is None:
        raise ArgumentError("predict: --out is missing; give a file that ends in .npz or .csv.")
    check_prediction_file(out)
    check("predict", "which", which, WHICH)
    check("predict", "accelerator", accelerator, ACCELERATORS)
    print_first_line(f"Predicting with the {which} checkpoint of {run}.")
    from dashpot.runs.prediction_file import write_predictions
    from dashpot.training.run.inference import predict_run

    found = predict_run(run, split, which, accelerator)
    if is_first_process():
        rows = write_predictions(out, found.outputs)
        print(f"Split {found.split}, {rows} rows: {out}")
