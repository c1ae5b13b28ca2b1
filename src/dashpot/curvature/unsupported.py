"""What to say where a model cannot be differentiated twice: which operation it is, and which route remains."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dashpot.curvature.graph import blind_function, hides_parameters, user_function
from dashpot.errors import CurvatureError

__all__ = ["named_obstacle", "refuse_blind_functions", "refuse_hidden_parameters", "refuse_sparse"]

_OPERATION = re.compile(r"(?:derivative for|forward AD with|forward-mode AD for|jvp for) '?((?:aten::)?[\w:.]+)'?")
_SIGNS = (
    "derivative for",
    "differentiate twice",
    "double backward",
    "forward AD",
    "forward mode AD",
    "forward-mode AD",
    "forward grad defined",
    "jvp function",
    "jvp staticmethod",
    "no forward mode",
    "ZeroTensors",  # of torch's forward mode through some of its losses
    "incompatible with .grad()",  # reentrant checkpointing
)


@contextmanager
def named_obstacle(outputs: Sequence[Tensor] = (), way: str = "double backward") -> Iterator[None]:
    """Turn torch's complaint that something cannot be differentiated so into a `CurvatureError` that names it."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if isinstance(error, CurvatureError) or not any(sign in text for sign in _SIGNS):
            raise
        if "sparse" in text:
            raise CurvatureError("gradients must be dense, got sparse ones.") from error
        found = _OPERATION.search(text)
        name = found[1] if found else _applied(error) or user_function(outputs) or _described(text)
        raise _no_way(name, way) from error


def _applied(error: BaseException) -> str | None:
    """The `torch.autograd.Function` in whose `apply` an error arose."""
    place = error.__traceback__
    while place is not None:
        cls = place.tb_frame.f_locals.get("cls")
        if isinstance(cls, type) and issubclass(cls, torch.autograd.Function):
            return cls.__name__
        place = place.tb_next
    return None


def _described(text: str) -> str:
    """An operation that torch does not name, with what torch says."""
    first = text.strip().splitlines()[0]
    return f"an operation of the model ({first if len(first) < 200 else first[:200] + '...'})"


def _no_way(name: str, way: str) -> CurvatureError:
    return CurvatureError(
        f"{name} has no {way}; use probe='differences' with a closure, which needs ordinary gradients only."
    )


def refuse_blind_functions(roots: Iterable[Tensor]) -> None:
    """`CurvatureError` for what was computed with a function that is differentiable once only."""
    name = blind_function(roots)
    if name is not None:
        raise _no_way(name, "double backward")


def refuse_hidden_parameters(loss: Tensor) -> None:
    """`CurvatureError` for a loss whose graph shows only part of the parameters."""
    if hides_parameters([loss]):
        raise _no_way("reentrant checkpointing", "derivative by the parameters inside")


def refuse_sparse(grads: Iterable[Tensor | None]) -> None:
    """`CurvatureError` for a gradient that is not dense."""
    for g in grads:
        if g is not None and g.layout != torch.strided:
            raise CurvatureError(f"gradients must be dense, got layout {g.layout} for shape {tuple(g.shape)}.")
