"""Measurements of a run, compared with the predictions of theory for its settings."""

from dashpot.watching.advice import Advice
from dashpot.watching.curvature_operator import preconditioned_hessian
from dashpot.watching.noise_scale import NoiseSample, NoiseScale, noise_scale
from dashpot.watching.report import WatchReport
from dashpot.watching.watcher import Watcher, watch

__all__ = [
    "Advice",
    "NoiseSample",
    "NoiseScale",
    "WatchReport",
    "Watcher",
    "noise_scale",
    "preconditioned_hessian",
    "watch",
]
