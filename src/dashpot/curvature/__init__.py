"""Curvature: random probes, and four routes that compute Hessian-vector products."""

from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.forward_over_reverse import forward_tangents, gradients_and_products
from dashpot.curvature.hvp_options import Probing, ProbingOptions
from dashpot.curvature.probes import draw_probes
from dashpot.curvature.stats import CurvatureStats

__all__ = [
    "CurvatureStats",
    "Probing",
    "ProbingOptions",
    "central_difference",
    "differentiable_gradients",
    "draw_probes",
    "forward_tangents",
    "gradients_and_products",
    "product_of_gradients",
    "relative_step_for",
    "step_length",
]
