"""Effect of the settings of a method, in closed form.

Every function returns an `Analysis`: a summary in words, the numbers behind it, and a figure. The closed forms require
numpy; figures require matplotlib.
"""

from dashpot.analysis.change_dynamics import Dynamics, TensorDynamics, dynamics
from dashpot.analysis.rational_filter import RationalFilter
from dashpot.analysis.result import Analysis, Quantity
from dashpot.analysis.step_conditions import StepConditions, robbins_monro
from dashpot.analysis.step_recording import StepRecording, record_steps
from dashpot.analysis.travel import Reach, reach

__all__ = [
    "Analysis",
    "Dynamics",
    "Quantity",
    "RationalFilter",
    "Reach",
    "StepConditions",
    "StepRecording",
    "TensorDynamics",
    "dynamics",
    "reach",
    "record_steps",
    "robbins_monro",
]
