"""Curvature: random probes, four routes that compute Hessian-vector products, and the spectrum of a Hessian."""

from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.forward_over_reverse import forward_tangents, gradients_and_products
from dashpot.curvature.hessian import Hessian, hessian
from dashpot.curvature.hvp_options import Probing, ProbingOptions
from dashpot.curvature.probes import draw_probes
from dashpot.curvature.spectrum import Eigenvalues, SpectralDensity, Trace, eigenvalues, spectral_density, trace
from dashpot.curvature.stats import CurvatureStats

__all__ = [
    "CurvatureStats",
    "Eigenvalues",
    "Hessian",
    "Probing",
    "ProbingOptions",
    "SpectralDensity",
    "Trace",
    "central_difference",
    "differentiable_gradients",
    "draw_probes",
    "eigenvalues",
    "forward_tangents",
    "gradients_and_products",
    "hessian",
    "product_of_gradients",
    "relative_step_for",
    "spectral_density",
    "step_length",
    "trace",
]
