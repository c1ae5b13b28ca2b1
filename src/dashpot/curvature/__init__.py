"""Curvature: random probes, Hessian-vector products by four routes, and the optimizers that learn from them."""

from dashpot.curvature.differences import central_difference, relative_step_for, step_length
from dashpot.curvature.double import differentiable_gradients, product_of_gradients
from dashpot.curvature.draws import draws
from dashpot.curvature.forward import gradients_and_products, moving_along
from dashpot.curvature.optimizer import SecondOrder
from dashpot.curvature.probing import Probing, ProbingOptions
from dashpot.curvature.stats import CurvatureStats

__all__ = [
    "CurvatureStats",
    "Probing",
    "ProbingOptions",
    "SecondOrder",
    "central_difference",
    "differentiable_gradients",
    "draws",
    "gradients_and_products",
    "moving_along",
    "product_of_gradients",
    "relative_step_for",
    "step_length",
]
