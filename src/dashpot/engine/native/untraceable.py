"""The error that is raised for operations that cannot be compiled. Its message suggests a replacement."""

from __future__ import annotations

from dashpot.engine.stage_errors import StageFrame

_LISTED = "use the operations listed in docs/own-stage.md"
_NO_SHAPE = (
    "kernels are independent of shapes: use elementwise operations, and ctx.mean or ctx.norm for the whole tensor"
)
_REDUCE = "use ctx.mean or ctx.norm"
_NO_VALUES = "keep it a tensor, and use torch.where for conditions"
_NO_RANDOM = "draw no random numbers in a stage"

_SHAPES = "shape size dim ndim numel stride reshape reshape_as view view_as flatten unflatten ravel squeeze unsqueeze "
_SHAPES += "expand expand_as broadcast_to permute transpose t T mT roll flip diff narrow chunk split stack cat "
_SHAPES += "matmul mm mv outer new_zeros new_ones new_full new_empty new_tensor zeros ones gather scatter index_select"
_REDUCTIONS = "mean sum norm linalg_norm linalg_vector_norm vector_norm max min amax amin aminmax std var std_mean "
_REDUCTIONS += "var_mean median quantile any all prod dot vdot dist cumsum cumprod sort topk kthvalue argmax argmin "
_REDUCTIONS += "count_nonzero logsumexp softmax nansum nanmean"
_VALUES = "item tolist numpy cpu cuda is_nonzero equal allclose"
_RANDOM = "rand_like randn_like randint_like bernoulli dropout normal multinomial poisson"

_HINTS = {
    **dict.fromkeys(_SHAPES.split(), _NO_SHAPE),
    **dict.fromkeys(_REDUCTIONS.split(), _REDUCE),
    **dict.fromkeys(_VALUES.split(), _NO_VALUES),
    **dict.fromkeys(_RANDOM.split(), _NO_RANDOM),
}


class UntraceableError(BaseException):
    """An operation that kernels do not support.

    It does not derive from `Exception`, so that an `except Exception` clause in a stage cannot catch it and
    continue with a fallback, which would then be traced.

    Args:
        operation: Name or description of the operation.
        hint: Suggested replacement, phrased in the imperative.
        frame: Source line of the stage that caused the error, if known.
    """

    def __init__(self, operation: str, hint: str = _LISTED, frame: StageFrame | None = None) -> None:
        super().__init__(operation)
        self.operation, self.hint, self.frame = operation, hint, frame

    def __str__(self) -> str:
        return f"{self.frame.stage}: {self.operation}" if self.frame else self.operation


def unsupported(name: str, text: str | None = None) -> UntraceableError:
    """Return the error for an unsupported function or method of torch, described by `text`."""
    if name.endswith("_") and not name.startswith("_"):
        hint = f"use {name[:-1]}, which returns a new tensor"
    else:
        hint = _HINTS.get(name.removeprefix("linalg_"), _LISTED)
    return UntraceableError(text or name, hint)
