"""Why a stage cannot be compiled, and what its author can do about it."""

from __future__ import annotations

from dashpot.engine.stage_errors import StageFrame

__all__ = ["UntraceableError", "unsupported"]

_LISTED = "write it with the operations that docs/own-stage.md lists"
_NO_SHAPE = (
    "a kernel serves tensors of every shape: work on elements, and use ctx.mean or ctx.norm for the whole tensor"
)
_REDUCE = "use ctx.mean or ctx.norm, the reductions that compile"
_KEEP = "keep it a tensor, and use torch.where for a condition"
_NO_DRAW = "draw no random numbers in a stage"

_SHAPES = "shape size dim ndim numel stride reshape reshape_as view view_as flatten unflatten ravel squeeze unsqueeze "
_SHAPES += "expand expand_as broadcast_to permute transpose t T mT roll flip diff narrow chunk split stack cat "
_SHAPES += "matmul mm mv outer new_zeros new_ones new_full new_empty new_tensor zeros ones gather scatter index_select"
_REDUCTIONS = "mean sum norm linalg_norm linalg_vector_norm vector_norm max min amax amin aminmax std var std_mean "
_REDUCTIONS += "var_mean median quantile any all prod dot vdot dist cumsum cumprod sort topk kthvalue argmax argmin "
_REDUCTIONS += "count_nonzero logsumexp softmax nansum nanmean"
_VALUES = "item tolist numpy cpu cuda is_nonzero equal allclose"
_DRAWS = "rand_like randn_like randint_like bernoulli dropout normal multinomial poisson"

_CURES = {
    **dict.fromkeys(_SHAPES.split(), _NO_SHAPE),
    **dict.fromkeys(_REDUCTIONS.split(), _REDUCE),
    **dict.fromkeys(_VALUES.split(), _KEEP),
    **dict.fromkeys(_DRAWS.split(), _NO_DRAW),
}


class UntraceableError(BaseException):
    """An operation that kernels do not have; the text names it, and the stage once that is known.

    Args:
        cure: What the author can write instead, as the end of a sentence.
        place: The line of the stage.

    No `Exception`: a stage that tries something and goes another way when it fails must not be traced along that way.
    """

    def __init__(self, what: str, cure: str = _LISTED, place: StageFrame | None = None) -> None:
        super().__init__(what)
        self.what, self.cure, self.place = what, cure, place

    def __str__(self) -> str:
        return f"{self.place.stage}: {self.what}" if self.place else self.what


def unsupported(name: str, text: str | None = None) -> UntraceableError:
    """The error for a function or method of torch that cannot be traced; `text` says more than its name."""
    if name.endswith("_") and not name.startswith("_"):
        cure = f"use {name[:-1]}, which returns a new tensor"
    else:
        cure = _CURES.get(name.removeprefix("linalg_"), _LISTED)
    return UntraceableError(text or name, cure)
