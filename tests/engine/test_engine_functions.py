"""Functions in kernels compared with torch, on special values in both precisions.

Correctly rounded IEEE 754 arithmetic must agree bit for bit. For other functions, the engines use different libraries
(torch's vectorized library and the C++ standard library), each with an error of at most one ulp, so the results differ
by at most two ulps. These functions include torch's square root, whose vectorized form is not always correctly rounded.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from contracts.trajectories import distance, parameters
from engine_support import explanation, is_compiled

import dashpot as dp
from dashpot.engine.native.functions import FUNCTIONS

pytestmark = pytest.mark.needs_compiler

NAN, INF = math.nan, math.inf
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.7, 1e-3, 37.0, 1e-40, -1e-42, 2**-126, 1e30, -3e38, INF, -INF, NAN)
DTYPES = (torch.float32, torch.float64)

EXACT = {
    "abs": lambda a, b: a.abs(),
    "absolute": lambda a, b: torch.absolute(a),
    "neg": lambda a, b: torch.neg(a) + -b,
    "sign": lambda a, b: torch.sign(a),
    "sgn": lambda a, b: a.sgn(),
    "square": lambda a, b: a.square(),
    "reciprocal": lambda a, b: a.reciprocal(),
    "add": torch.add,
    "sub": lambda a, b: a.sub(b),
    "subtract": torch.subtract,
    "rsub": torch.rsub,
    "mul": torch.mul,
    "multiply": lambda a, b: a.multiply(b),
    "div": torch.div,
    "true_divide": lambda a, b: a.true_divide(b),
    "addcdiv": lambda a, b: torch.addcdiv(a, a, b, value=1.0),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "max": torch.max,
    "min": lambda a, b: a.min(b),
    "clamp": lambda a, b: a.clamp(-0.7, 1.5),
    "clip": lambda a, b: torch.clip(a, min=b),
    "clamp_min": lambda a, b: a.clamp_min(b),
    "clamp_max": lambda a, b: a.clamp_max(b),
    "clamp both": lambda a, b: torch.clamp(a, min=b, max=b + 1),
    "relu": lambda a, b: a.relu(),
    "where": lambda a, b: torch.where(a > b, a, 2.0),
    "lt": lambda a, b: torch.lt(a, b).to(a.dtype),
    "le": lambda a, b: (a <= b).to(a.dtype),
    "gt": lambda a, b: a.gt(b).to(a.dtype),
    "ge": lambda a, b: (a >= 0.5) + 0 * b,
    "eq": lambda a, b: (a == b).to(a.dtype),
    "ne": lambda a, b: torch.ne(a, b) * torch.ones_like(a),
    "logical_and": lambda a, b: torch.logical_and(a > 0, b > 0).to(a.dtype),
    "logical_or": lambda a, b: torch.logical_or(a > 0, b > 0).to(a.dtype),
    "logical_not": lambda a, b: torch.logical_not(a > b).to(a.dtype),
    "bitwise_and": lambda a, b: torch.bitwise_and(a > 0, b > 0).to(a.dtype),
    "bitwise_or": lambda a, b: ((a > 0) | (b > 0)).to(a.dtype),
    "bitwise_xor": lambda a, b: ((a > 0) ^ (b > 0)).to(a.dtype),
    "not": lambda a, b: (~(a > b)).to(a.dtype),
    "isnan": lambda a, b: torch.isnan(a).to(a.dtype),
    "isinf": lambda a, b: a.isinf().to(a.dtype),
    "isfinite": lambda a, b: a.isfinite().to(a.dtype),
    "zeros_like": lambda a, b: torch.zeros_like(a) + b,
    "ones_like": lambda a, b: torch.ones_like(a) * b,
    "full_like": lambda a, b: torch.full_like(a, 0.1) * b,
    "to": lambda a, b: (a.to(torch.float32) * b.to(torch.float32)).to(a.dtype),
    "float": lambda a, b: a.float().to(a.dtype),
    "double": lambda a, b: (a.double() * 0.1).to(a.dtype),
    "clone": lambda a, b: a.clone() + b.detach().contiguous(),
    "floor": lambda a, b: a.floor(),
    "ceil": lambda a, b: a.ceil(),
    "trunc": lambda a, b: torch.trunc(a),
    "reflected": lambda a, b: (1 - a) + (2 / b) + 3 * a,
    "power 2": lambda a, b: a**2 + 2.0**0.5,
    "power 1": lambda a, b: a**1 + b**-1,
    "power 0": lambda a, b: a**0,
    "bfloat16": lambda a, b: a.to(torch.bfloat16).to(a.dtype),
    "truth beside numbers": lambda a, b: a * (b > 0) + (a > 0),
    "truth beside fractions": lambda a, b: ((a > b) * 0.1 + (b > 0) / 3) * a,
    "truth over truth": lambda a, b: (a > 0) / (b > 0),
    "truth above a fraction": lambda a, b: ((a > b) > 0.5).to(a),
    "whole numbers over whole numbers": lambda a, b: torch.where(a > b, 1, 3) / torch.where(b > 0, 7, -3),
    "where of fractions": lambda a, b: torch.where(a > b, 0.1, 0.2),
    "where of a fraction and a whole number": lambda a, b: torch.where(a > b, 0.1, 2) * b,
    "where of whole numbers": lambda a, b: torch.where(a > b, 1, -1) * b,
    "where of truth values": lambda a, b: a * torch.where(a > b, True, False),
    "where of one number": lambda a, b: torch.where(a > b, a.mean() * 0 + 2, 0.1),
    "Tensor.where": lambda a, b: a.where(a > b, 0),
    "where of nothing": lambda a, b: torch.where(a.isnan(), torch.zeros_like(a), a),
    "masked_fill": lambda a, b: a.masked_fill(a > b, 0.1) + torch.masked_fill(b, b.isnan(), a.sum() * 0 + 1),
    "nan_to_num": lambda a, b: a.nan_to_num() + torch.nan_to_num(b, 0.1, posinf=3.0, neginf=-4.0),
    "nan_to_num to infinity": lambda a, b: torch.nan_to_num(a, nan=INF, posinf=1.0),
    "heaviside": torch.heaviside,
    "sign of -0": lambda a, b: a.sign() / a,
    "signbit": lambda a, b: torch.where(a.isnan(), 0.0, a.signbit() * 2.0),
    "copysign": lambda a, b: torch.copysign(a, torch.where(b.isnan(), a, b)).copysign(-1.0) * b,
    "fmod": lambda a, b: torch.fmod(a.clamp(-50, 50), b.abs().clamp_min(1e-3)) + a.fmod(2.0),
    "remainder": lambda a, b: torch.remainder(a.clamp(-50, 50), 0.75) + a.clamp(-9, 9) % (b.sign() + 0.5),
    "frac": lambda a, b: a.frac(),
    "round": lambda a, b: a.round() + (a * 0.5).round(),
    "positive": lambda a, b: torch.positive(a) + +b,
    "fmax": torch.fmax,
    "fmin": lambda a, b: a.fmin(b),
    "clamp by another precision": lambda a, b: a.clamp(min=b.double() * 0.1),
    "logical_xor": lambda a, b: torch.logical_xor(a, b > 0).to(a),
    "logical of numbers": lambda a, b: (torch.logical_and(a, b) * 2 + a.logical_not()).to(a) + a.logical_or(b),
    "bitwise_not": lambda a, b: torch.bitwise_not(a > b).to(a),
    "bool": lambda a, b: a.bool().to(a),
    "isposinf": lambda a, b: torch.isposinf(a) * 3.0,
    "isneginf": lambda a, b: a.isneginf().to(a),
    "type": lambda a, b: a.type(torch.float64).type(b.dtype) * (a > b).type(a.dtype),
    "type_as": lambda a, b: (a > b).type_as(a),
    "to another tensor": lambda a, b: (a * b > 0).to(b) + (a > b).to(tensor=a) + (a > 0).to(b, copy=True),
    "to by keyword": lambda a, b: (a > b).to(dtype=a.dtype, device=a.device) + a.to(device=b.device),
    "to a device": lambda a, b: a.to("cpu") + b.to(a.device, torch.float32, False),
    "half": lambda a, b: a.clamp(-6e4, 6e4).half().to(a),
    "to bfloat16": lambda a, b: a.bfloat16().to(b),
    "is_floating_point": lambda a, b: a * (2 if torch.is_floating_point(a) else 3),
    "is_complex": lambda a, b: a * (2 if a.is_complex() else 3),
    "full_like with a type": lambda a, b: torch.full_like(a, 0.1, dtype=torch.float32) * b + torch.ones_like(a > b),
    "zeros_like alone": lambda a, b: torch.zeros_like(a, memory_format=torch.preserve_format),
    "numpy numbers": lambda a, b: (
        np.float64(0.1) * a + b * np.float32(0.1) - np.int64(3) + torch.where(a > b, np.pi, 1)
    ),
    "finfo": lambda a, b: a * torch.finfo(a.dtype).eps,
}
ROUNDED = {
    "sqrt": lambda a, b: torch.sqrt(a),
    "rsqrt": lambda a, b: a.rsqrt(),
    "exp": lambda a, b: a.exp(),
    "expm1": lambda a, b: torch.expm1(a),
    "log": lambda a, b: torch.log(a),
    "log1p": lambda a, b: a.log1p(),
    "log2": lambda a, b: a.log2(),
    "tanh": lambda a, b: a.tanh(),
    "sin": lambda a, b: torch.sin(a.clamp(-100, 100)),
    "cos": lambda a, b: torch.cos(a.clamp(-100, 100)),
    "erf": lambda a, b: a.erf(),
    "sigmoid": lambda a, b: torch.sigmoid(a),
    "pow": torch.pow,
    "power 3": lambda a, b: a**3,
    "power 0.5": lambda a, b: a**0.5,
    "power -0.5": lambda a, b: a**-0.5,
    "power of 2": lambda a, b: 2**a,
    "exp2": lambda a, b: torch.exp2(a),
    "log10": lambda a, b: a.log10(),
    "tan": lambda a, b: torch.tan(a.clamp(-1.5, 1.5)),
    "asin": lambda a, b: a.asin(),
    "acos": lambda a, b: torch.acos(a),
    "atan": lambda a, b: a.atan(),
    "sinh": lambda a, b: a.sinh(),
    "cosh": lambda a, b: a.cosh(),
    "asinh": lambda a, b: torch.asinh(a),
    "acosh": lambda a, b: a.acosh(),
    "atanh": lambda a, b: a.atanh(),
    "erfc": lambda a, b: torch.erfc(a),
    "atan2": torch.atan2,
    "hypot": lambda a, b: a.hypot(b),
}
# The order of two zeros is unspecified in torch.
SIGN_OF_ZERO = (
    "maximum",
    "minimum",
    "max",
    "min",
    "fmax",
    "fmin",
    "clip",
    "clamp_min",
    "clamp_max",
    "clamp both",
    "relu",
    "clamp by another precision",
)
INTEGERS = {  # an integer view exists only for float32
    "view": lambda a, b: (a.view(torch.int32) + 1).view(torch.float32),
    "bitwise_left_shift": lambda a, b: torch.bitwise_left_shift(a.view(torch.int32), 3).view(torch.float32),
    "bitwise_right_shift": lambda a, b: torch.bitwise_right_shift(a.view(torch.int32), 3).view(torch.float32),
    "integer bits": lambda a, b: ((a.view(torch.int32) & 0x7FFF) | (b.view(torch.int32) ^ 5)).view(torch.float32),
    "integer not": lambda a, b: (~a.view(torch.int32)).view(torch.float32),
    "integer product": lambda a, b: (a.view(torch.int32) * -1640531527 - b.view(torch.int32)).view(torch.float32),
    "integer order": lambda a, b: (a.view(torch.int32) < b.view(torch.int32)).to(torch.float32),
    "integer to float": lambda a, b: a.view(torch.int32).to(torch.float32),
    "shift left": lambda a, b: ((a.view(torch.int32) << 31) >> 16).to(torch.float32),
}
FUSED = {  # summation in a different order; multiply-adds that torch rounds once and kernels twice
    "mean": lambda a, b: a.mean() * b,
    "sum": lambda a, b: torch.sum(a) + b,
    "norm": lambda a, b: b / a.norm(),
    "linalg_vector_norm": lambda a, b: b + torch.linalg.vector_norm(a),
    "norm of a given order": lambda a, b: b / a.norm(p=2) + b * torch.linalg.norm(a) / a.norm("fro"),
    "vector_norm": lambda a, b: b - torch.linalg.vector_norm(a, 2, dtype=torch.float64).to(b.dtype),
    "mean in double": lambda a, b: b * a.mean(dtype=torch.float64).to(b.dtype),
    "lerp": lambda a, b: torch.lerp(a, b, 0.25) + a.lerp(b, 0.75) + torch.lerp(a, b, -2.0) + a.lerp(b, b),
    "add with alpha": lambda a, b: torch.add(a, b, alpha=0.3) - a.sub(b, alpha=3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "nested": lambda a, b: (a - a.mean()).square().mean().sqrt() * b + (b * a.mean()).mean(),
}


def stage_of(functions, suffix):
    """Return a stage that stores the result of each function in a separate slot."""

    @dataclass(frozen=True)
    class StoreResults(dp.Stage):
        label_: str = suffix

        @property
        def slots(self):
            return tuple(dp.elementwise(f"r{number}") for number in range(len(functions)))

        def apply(self, x, s, c, ctx):
            results = [function(x.g, x.w) for function in functions.values()]
            return x._replace(v=x.v * 0), type(s)(*results)

    return StoreResults()


def results_of(functions, dtype, a, b, suffix):
    """Return the results of both engines by name."""
    found = []
    for engine in ("eager", "compiled"):
        p = b.clone().requires_grad_()
        optimizer = dp.SGM.from_recipe([p], dp.Recipe(stage_of(functions, suffix)), engine=engine)
        p.grad = a.clone()
        optimizer.step()
        if engine == "compiled":
            assert is_compiled(optimizer), explanation(optimizer)
        state = optimizer.state[p]
        found.append([state[f"r{number}"] for number in range(len(functions))])
    return {name: pair for name, *pair in zip(functions, *found, strict=True)}


def grid(dtype):
    special = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    a, b = torch.meshgrid(special, special, indexing="ij")
    return a.flatten(), b.flatten()


def ordered(x):
    """Map floats to integers in the same order, such that adjacent floats differ by one."""
    kind, sign = (torch.int32, 2**31) if x.dtype == torch.float32 else (torch.int64, 2**63)
    bits = x.contiguous().view(kind).to(torch.int64)
    return torch.where(bits < 0, -(bits & (sign - 1)), bits)


def assert_close_in_ulps(name, eager, compiled, ulps):
    assert torch.equal(torch.isnan(eager), torch.isnan(compiled)), name
    real = ~torch.isnan(eager)
    far = (ordered(eager) - ordered(compiled)).abs()[real] > ulps
    assert not far.any(), (name, eager[real][far][:5], compiled[real][far][:5])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_match_torch(dtype):
    functions = {**EXACT, **ROUNDED, **(INTEGERS if dtype == torch.float32 else {})}
    for name, (eager, compiled) in results_of(functions, dtype, *grid(dtype), "functions").items():
        assert_close_in_ulps(name, eager, compiled, 2 if name in ROUNDED else 0)
        if name not in (*ROUNDED, *SIGN_OF_ZERO):
            zero = eager == 0
            assert torch.equal(torch.signbit(eager[zero]), torch.signbit(compiled[zero])), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_and_fused_functions_match_torch(dtype):
    """The tolerance is a few roundings of numbers near 10."""
    a, b = (p.detach() for p in parameters(dtype, shapes=((999,), (999,))))
    bound = 1e-5 if dtype == torch.float32 else 1e-13
    for name, (eager, compiled) in results_of(FUSED, dtype, a, b, "reductions").items():
        assert distance([compiled], [eager]) < bound, name


def test_all_functions_are_tested():
    """A function may be tested under its name or under an alias."""
    tested = {FUNCTIONS[name] for name in {*EXACT, *ROUNDED, *INTEGERS, *FUSED} & FUNCTIONS.keys()}
    assert {name for name, function in FUNCTIONS.items() if function not in tested} == set()
