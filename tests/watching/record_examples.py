"""Records of runs for tests of reports: rows as probes write them, from formulas instead of a training."""

from __future__ import annotations

import math
import random

from dashpot.watching.series import WatchRecord


def names(count=50):
    """Return names of the tensors of a transformer."""
    parts = ("ln.weight", "ln.bias", "attn.qkv.weight", "attn.proj.weight", "mlp.fc.weight", "mlp.proj.weight")
    found = ["embedding.weight", "position.weight"]
    found += [f"blocks.{block}.{part}" for block in range(20) for part in parts]
    return [*found[: count - 1], "head.weight"]


def header(tensors):
    return {
        "optimizer": "AdamW",
        "tensors": {name: [64, 64] for name in tensors},
        "budget": 0.03,
        "batch": 64,
        "adaptive": False,
        "explain": "AdamW remembers about 10 gradients. At lr 0.001, it is stable for curvatures below 38 000.",
        "model": "Transformer",
    }


def complete(steps=2000, count=50, seed=0, every=10):
    """Return a record with rows of all kinds."""
    rng = random.Random(seed)
    tensors = names(count)
    record = WatchRecord(header(tensors))
    for step in range(1, steps + 1, every):
        record.add("norms", norms(rng, step, steps, tensors))
    for step in range(1, steps + 1, 100):
        _hundredth(record, rng, step, tensors)
    for step in sorted({50, steps // 2, steps}):
        curvature(record, step, 1.8 * (1 - math.exp(-step / steps)))
    record.add("spectrum", spectrum(steps))
    record.add("warning", warning(steps // 2, tensors[2]))
    return record


def norms(rng, step, steps, tensors):
    scale = math.exp(-2 * step / steps)
    rows = {}
    for index, name in enumerate(tensors):
        grad, weight = scale * rng.lognormvariate(0, 0.2) / (1 + index), 2.0 + index / 10
        update = 1e-3 * weight * scale * (1 + index % 7) * rng.lognormvariate(0, 0.1)
        rows[name] = {"grad": grad, "update": update, "weight": weight, "ratio": update / weight, "angle": 0.8 * update}
    totals = {key: math.sqrt(sum(row[key] ** 2 for row in rows.values())) for key in ("grad", "update", "weight")}
    loss = 2.0 + 2 * scale + 0.05 * rng.gauss(0, 1)
    ratio = totals["update"] / totals["weight"]
    return {"step": step, "loss": loss, "lr": [1e-3 * scale], **totals, "ratio": ratio, "angle": ratio, "tensors": rows}


def _hundredth(record, rng, step, tensors):
    record.add("noise", noise(step, 300.0 + 0.8 * step))
    tensors_dynamics = {
        name: {
            "alpha": [2e-3 / (1 + index), 1e-3 / (1 + index), 1e-4, 0.1],
            "r": [1.0, 1.0, 0.0, 64.0],
            "e": [0.3, 0.0, 0.1, 6.4],
            "dw": [1e-2, 0.0, 1e-3, 0.1],
            "stalled": 0.01,
            "agreement": 0.53 + 0.02 * rng.random(),
        }
        for index, name in enumerate(tensors)
    }
    rate = {"nominal": 1e-3, "predicted": 1e-3, "measured": 9e-4, "clip": 1.0, "applied": 9e-4}
    rates = {name: dict(rate) for name in tensors}
    effective = dict.fromkeys(tensors, 9e-4)
    row = {"step": step, "tensors": tensors_dynamics, "effective_lr": effective, "rates": rates, "reason": None}
    record.add("dynamics", row)
    measured = 0.05 * rng.lognormvariate(0, 0.1)
    parts = {"sampling": 0.045, "weights": 0.012}
    record.add(
        "temperature",
        {"step": step, "predicted": 0.047, "measured": measured, "parts": parts, "excess": 0.01, "steps": 500},
    )
    by_kind = {"norms": 0.004, "noise": 0.006, "curvature": 0.003}
    record.add("cost", {"step": step, "share": 0.013, "by_kind": by_kind, "steps": step})


def noise(step, scale, batch=64, low=0.8, high=1.3):
    row = {"step": step, "grad_square": 1.0, "trace": scale, "scale": scale, "low": low * scale, "high": high * scale}
    preconditioned = {"scale": 0.7 * scale, "low": 0.5 * scale, "high": scale}
    return {**row, "preconditioned": preconditioned, "batch": batch, "source": "halves", "samples": step // 100 + 1}


def curvature(record, step, product, edge=38.0, full_batch=False):
    row = {"eigenvalues": [product, product / 2], "residuals": [0.01 * product, 0.02 * product], "edge": edge}
    more = {"sharpness": 12.0, "examples": 64, "full_batch": full_batch, "iterations": 12, "products": 12}
    record.add("curvature", {"step": step, **row, "ratio": product / edge, **more})


def spectrum(steps, count=65):
    frequencies = [math.pi * (index + 1) / count for index in range(count)]
    response = [0.01 / (1 + 0.81 - 1.8 * math.cos(f)) for f in frequencies]
    power = [1.0 + 0.1 * math.sin(7 * f) for f in frequencies]
    filtered = [p * r for p, r in zip(power, response, strict=True)]
    measured = [1.05 * value for value in response]
    rows = {"frequencies": frequencies, "power": power, "filtered": filtered, "response": response}
    return {"step": steps, "steps": 512, **rows, "measured": measured, "error": 0.025, "reason": None}


def warning(step, tensor, severity=0.7):
    text = f"The update norm of {tensor} is 6.2 times its median."
    advice = "Divide the learning rate by 2."
    row = {"kind": "spike", "tensor": tensor, "text": text, "advice": advice, "confidence": 0.05, "severity": severity}
    return {"step": step, **row}
