"""What to say where a model cannot be differentiated twice: which operation it is, and which route remains."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dashpot.errors import CurvatureError

__all__ = ["named_obstacle"]

_OPERATION = re.compile(r"(?:derivative for|forward AD with|forward-mode AD for|jvp for) '?((?:aten::)?[\w:.]+)'?")
_SIGNS = (
    "derivative for",
    "differentiate twice",
    "double backward",
    "forward AD",
    "forward-mode AD",
    "jvp function",
    "jvp staticmethod",
    "no forward mode",
    "forward grad defined",
)


@contextmanager
def named_obstacle(outputs: Sequence[Tensor], way: str = "double backward") -> Iterator[None]:
    """Turn torch's complaint that something cannot be differentiated so into a `CurvatureError` that names it."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        text = str(error)
        if isinstance(error, CurvatureError) or not any(sign in text for sign in _SIGNS):
            raise
        found = _OPERATION.search(text)
        name = found[1] if found else _once_differentiable(outputs) or "an operation of the model"
        raise CurvatureError(
            f"{name} has no {way}; use probe='differences' with a closure, which needs ordinary gradients only."
        ) from error


def _once_differentiable(outputs: Sequence[Tensor]) -> str | None:
    """The first `torch.autograd.Function` of a user that the tensors were computed with."""
    seen: set[Any] = set()
    waiting = [x.grad_fn for x in outputs]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        function = getattr(node, "_forward_cls", None)
        if function is not None:
            return function.__name__
        waiting += [after for after, _ in node.next_functions]
    return None
