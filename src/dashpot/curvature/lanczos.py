"""The Lanczos process of a symmetric operator, with full reorthogonalization.

The process builds an orthonormal basis Q of the Krylov space of a start vector, and the tridiagonal matrix T = Q' A Q.
An eigenpair (theta, s) of T gives the Ritz pair (theta, Q s) of A. Its residual |A Q s - theta Q s| is |beta s_m|, the
coupling to the next basis vector times the last component of s, and A has an eigenvalue within this distance of theta.
Without reorthogonalization, rounding errors destroy the orthogonality of Q once a Ritz pair has converged, and copies
of eigenvalues appear.

Source: Parlett, The Symmetric Eigenvalue Problem (1998), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_BREAKDOWN = 1e-10
"""Coupling relative to the operator's norm below which the Krylov space is invariant; far above float64 rounding."""


class Ritz(NamedTuple):
    """Ritz pairs of a Lanczos process, in ascending order.

    Attributes:
        values: Ritz values, in float64 on the CPU.
        residuals: Norms |A y - theta y| of the Ritz vectors y.
        weights: Squared first components of the eigenvectors of T: the quadrature weights of the values.
        components: Eigenvectors of T, as columns.
    """

    values: Tensor
    residuals: Tensor
    weights: Tensor
    components: Tensor


class LanczosProcess:
    """Lanczos process of an operator from a start vector.

    Args:
        product: Function that multiplies a vector by the operator.
        start: Start vector, not zero.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor) -> None:
        self._product = product
        self.basis = [start / start.norm()]
        self.alphas: list[float] = []
        self.betas: list[float] = []

    @property
    def exhausted(self) -> bool:
        """Whether the Krylov space is invariant, so that its Ritz values are exact."""
        size = max((abs(a) for a in self.alphas), default=0.0) + max(self.betas, default=0.0)
        rounding = max(_BREAKDOWN, 8 * torch.finfo(self.basis[0].dtype).eps)
        return len(self.alphas) == self.basis[0].numel() or (bool(self.betas) and self.betas[-1] <= rounding * size)

    def advance(self) -> None:
        """Compute one product and the next basis vector."""
        if len(self.basis) == len(self.alphas):
            raise AssertionError("the process is exhausted")
        q = self.basis[-1]
        r = self._product(q)
        self.alphas.append(float(torch.dot(q, r)))
        for _ in range(2):  # a second pass restores orthogonality to rounding error
            for other in self.basis:
                r = torch.sub(r, other * torch.dot(other, r))
        self.betas.append(float(r.norm()))
        if not self.exhausted:
            self.basis.append(r / self.betas[-1])

    def ritz(self) -> Ritz:
        """Return the Ritz pairs of the products so far."""
        off = torch.tensor(self.betas[:-1], dtype=torch.float64)
        matrix = torch.diag(torch.tensor(self.alphas, dtype=torch.float64))
        matrix = matrix + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return Ritz(values, (self.betas[-1] * vectors[-1]).abs(), vectors[0].square(), vectors)

    def vector(self, component: Tensor) -> Tensor:
        """Return the Ritz vector of a column of `Ritz.components`."""
        total = torch.zeros_like(self.basis[0])  # without a copy of the basis
        for c, q in zip(component.tolist(), self.basis, strict=False):
            total.add_(q, alpha=c)
        return total
