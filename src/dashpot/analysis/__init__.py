"""Effect of the settings of a method, in closed form.

Every function returns an `Analysis`: a summary in words, the numbers behind it, and a figure. The closed forms require
numpy; figures require matplotlib.
"""

from dashpot.analysis.batch_scaling import BatchScaling, scale_batch
from dashpot.analysis.change_dynamics import Dynamics, TensorDynamics, dynamics
from dashpot.analysis.decoupling import Decoupled, decouple
from dashpot.analysis.equivalents import Equivalent
from dashpot.analysis.explainer import explain
from dashpot.analysis.explanation import Explanation
from dashpot.analysis.filter_response import Response, response
from dashpot.analysis.quadratic_stability import Stability, stability
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.result import Analysis, Quantity
from dashpot.analysis.stability_regions import StabilityRegion, stability_region
from dashpot.analysis.stationary_variance import Temperature, temperature
from dashpot.analysis.step_conditions import StepConditions, robbins_monro
from dashpot.analysis.step_recording import StepRecording, record_steps
from dashpot.analysis.travel import Reach, reach

__all__ = [
    "Analysis",
    "BatchScaling",
    "Decoupled",
    "Dynamics",
    "Equivalent",
    "Explanation",
    "Quantity",
    "RationalFilter",
    "Reach",
    "Response",
    "Stability",
    "StabilityRegion",
    "StepConditions",
    "StepRecording",
    "Temperature",
    "TensorDynamics",
    "decouple",
    "dynamics",
    "explain",
    "reach",
    "record_steps",
    "response",
    "robbins_monro",
    "scale_batch",
    "stability",
    "stability_region",
    "temperature",
]
