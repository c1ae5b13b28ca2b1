"""Errors for models without a second derivative; each message names the operation and suggests a supported route."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dashpot.curvature.graph import custom_function, has_reentrant_checkpoint, once_differentiable_function
from dashpot.errors import CurvatureError

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
    "ZeroTensors",  # forward mode through some losses
    "incompatible with .grad()",  # reentrant checkpointing
)


@contextmanager
def naming_unsupported(outputs: Sequence[Tensor] = (), way: str = "double backward") -> Iterator[None]:
    """Convert torch's errors about unsupported derivatives to a `CurvatureError` that names the operation."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if isinstance(error, CurvatureError) or not any(sign in text for sign in _SIGNS):
            raise
        if "sparse" in text:
            raise CurvatureError("gradients must be dense, got sparse ones.") from error
        found = _OPERATION.search(text)
        name = found[1] if found else _applied(error) or custom_function(outputs) or _described(text)
        raise _no_way(name, way) from error


def _applied(error: BaseException) -> str | None:
    """Return the name of the `torch.autograd.Function` whose `apply` raised the error, or None."""
    place = error.__traceback__
    while place is not None:
        cls = place.tb_frame.f_locals.get("cls")
        if isinstance(cls, type) and issubclass(cls, torch.autograd.Function):
            return cls.__name__
        place = place.tb_next
    return None


def _described(text: str) -> str:
    """Describe an operation by the text of torch's error message, for messages that do not name the operation."""
    first = text.strip().splitlines()[0]
    return f"an operation of the model ({first if len(first) < 200 else first[:200] + '...'})"


def _no_way(name: str, way: str) -> CurvatureError:
    return CurvatureError(
        f"{name} has no {way}; use probe='differences' with a closure, which requires only gradients."
    )


def reject_once_differentiable(roots: Iterable[Tensor]) -> None:
    """Raise `CurvatureError` if the graph contains a function without a second derivative."""
    name = once_differentiable_function(roots)
    if name is not None:
        raise _no_way(name, "double backward")


def reject_reentrant_checkpoint(loss: Tensor) -> None:
    """Raise `CurvatureError` if the graph of the loss contains reentrant checkpointing."""
    if has_reentrant_checkpoint([loss]):
        raise _no_way("reentrant checkpointing", "derivative with respect to the parameters inside")


def reject_sparse(grads: Iterable[Tensor | None]) -> None:
    """Raise `CurvatureError` for a sparse gradient."""
    for g in grads:
        if g is not None and g.layout != torch.strided:
            raise CurvatureError(f"gradients must be dense, got layout {g.layout} for shape {tuple(g.shape)}.")
