"""Golden files, and a valid instance of each schedule."""

import json
from pathlib import Path

import dashpot.schedules as sch

GOLDEN = Path(__file__).parents[1] / "golden"

FACTORS = [
    sch.Constant(0.5),
    sch.InverseTime(rate=0.3),
    sch.InverseTime(rate=0.3, interval=4),
    sch.StepDecay(factor=0.5, every=3),
    sch.MultiStep(milestones=(2, 7), factor=0.3),
    sch.Exponential(0.9),
    sch.Polynomial(steps=10, power=1.7, floor=0.1),
    sch.Linear(start=0.2, end=1.5, steps=9),
    sch.LinearWarmup(steps=5, start=0.1),
    sch.ExponentialWarmup(rho=0.9),
    sch.Cosine(steps=12, floor=0.05, after="rise"),
    sch.CosineRestarts(first=4, mult=2, floor=0.05),
    sch.Cyclic(up=3, down=5, floor=0.1),
    sch.OneCycle(steps=20, anneal="linear", three_phase=True),
    sch.Window("logistic", steps=12, order=4.324, floor=0.05, half=False, flat_top=0.3, repeats=2, hold=3),
    sch.Window("flat", steps=12, repeats=3),
    sch.OriginalWindow("late-logistic", steps=12, hold=3, unnormalised=True, second_frame=True),
    sch.Sequence((sch.LinearWarmup(5), sch.Cosine(10)), milestones=(5,)),
    sch.Product((sch.Exponential(0.9), sch.Window("polynomial", steps=6))),
]
ABSOLUTES = [
    sch.OneCycleMomentum(steps=20, three_phase=True),
    sch.Sequence((sch.OneCycleMomentum(8), sch.OneCycleMomentum(9)), milestones=(8,)),
    sch.Product((sch.Constant(0.5), sch.OneCycleMomentum(8))),
]
EXAMPLES = [*FACTORS, *ABSOLUTES]


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def label(value):
    """Return a short test ID."""
    return type(value).__name__
