"""Second-order methods and their textbook counterparts."""

import pytest
from curvature import textbook

import dashpot as dp

DOUBLE = 1e-12


STEPS = 32  # with the default schedule, products at the steps 0 to 19 and 29


ORACLES = {
    "ESGD-0": (dp.ESGD, textbook.PlainMean, {"version": 0}),
    "ESGD-1": (dp.ESGD, textbook.ESGDVersion1, {"version": 1}),
    "ESGD-2": (dp.ESGD, textbook.ESGDVersion2, {"version": 2}),
    "AdaHessian": (dp.AdaHessian, textbook.AdaHessian, {}),
    "Sophia": (dp.Sophia, textbook.SophiaH, {}),
}


EVERY_METHOD = pytest.mark.parametrize("name", ORACLES)


# (method, settings of the method, settings of the second group, schedule of products)
CASES = [
    ("ESGD-1", {"lr": 0.3}, {}, {}),
    ("ESGD-1", {"lr": 0.5, "betas": (0.8, 0.9), "v": 1.0, "lr_warmup": 0.9}, {"v": 0.0}, {"update_d_every": 3}),
    (
        "ESGD-1",
        {"lr": 0.2, "betas": (0.99, 0.9), "v": 0.7, "weight_decay": 0.1, "lr_warmup": 0.0},
        {"lr": 0.1, "betas": (0.5, 0.99), "v": None, "lr_warmup": 0.95, "eps": 1e-2, "weight_decay": 0.0},
        {"update_d_every": 7, "d_warmup": 1, "distribution": "gaussian", "seed": 5},
    ),
    ("ESGD-0", {"lr": 0.3}, {}, {}),
    (
        "ESGD-0",
        {"lr": 0.2, "betas": (0.0, 0.5), "lr_warmup": 0.0},
        {"lr": 0.1, "eps": 1e-2, "weight_decay": 0.1},
        {"update_d_every": 3, "d_warmup": 2, "distribution": "gaussian"},
    ),
    ("ESGD-2", {"lr": 0.5}, {}, {"update_d_every": 4, "d_warmup": 2}),
    (
        "ESGD-2",
        {"lr": 0.3, "betas": (0.8, 1.0), "weight_decay": 0.2, "lr_warmup": 0.8},
        {"betas": (0.9, 0.5), "eps": 1e-2, "lr_warmup": 0.5},
        {"update_d_every": 2, "d_warmup": 5, "distribution": "gaussian"},
    ),
    ("AdaHessian", {"lr": 0.02}, {}, {}),
    ("AdaHessian", {"lr": 0.02, "hessian_power": 0.5, "weight_decay": 0.2}, {"lr": 0.01}, {"update_d_every": 5}),
    (
        "AdaHessian",
        {"lr": 0.02, "spatial_averaging": False, "betas": (0.8, 0.9), "eps": 1e-2},
        {"spatial_averaging": True, "hessian_power": 0.25, "betas": (0.7, 0.99), "weight_decay": 0.1},
        {"update_d_every": 3, "d_warmup": 6, "distribution": "gaussian", "seed": 2**62},
    ),
    ("Sophia", {"lr": 0.01}, {}, {}),
    (
        "Sophia",
        {"lr": 0.02, "gamma": 0.5, "betas": (0.9, 0.9), "weight_decay": 0.0},
        {"gamma": 2.0, "eps": 1e-2, "weight_decay": 0.3, "lr": 0.01, "betas": (0.5, 0.99)},
        {"update_d_every": 3, "d_warmup": 4, "distribution": "rademacher"},
    ),
]


class Timetable:
    """Documented schedule of products: at all steps of the warm-up, then periodically."""

    def __init__(self, every, warmup):
        self.every, self.warmup, self.last = every, warmup, 0

    def due(self, k, forced=False):
        due = k < self.warmup or k - self.last >= self.every or forced
        self.last = k if due else self.last
        return due


def identity(case):
    return f"{case[0]}-{CASES.index(case)}"
