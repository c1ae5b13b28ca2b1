"""Curvature: random probes, Hessian-vector products by four routes, and the optimizers that learn from them."""

from dashpot.curvature.double_backward import differentiable_gradients, product_of_gradients
from dashpot.curvature.finite_differences import central_difference, relative_step_for, step_length
from dashpot.curvature.forward_over_reverse import gradients_and_products, moving_along
from dashpot.curvature.hvp_options import Probing, ProbingOptions
from dashpot.curvature.probes import draws
from dashpot.curvature.stats import CurvatureStats

__all__ = [
    "CurvatureStats",
    "Probing",
    "ProbingOptions",
    "central_difference",
    "differentiable_gradients",
    "draws",
    "gradients_and_products",
    "moving_along",
    "product_of_gradients",
    "relative_step_for",
    "step_length",
]
