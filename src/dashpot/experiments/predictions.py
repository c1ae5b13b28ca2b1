"""TEMPORARY closed forms until dashpot.analysis has them."""

from types import SimpleNamespace


def temperature(recipe, curvature, noise=1.0, batch=1):
    stage = [s for s in recipe.stages if type(s).__name__ == "Filter"]
    beta, gamma, eta = 0.0, 0.0, 1.0
    if stage:
        f = stage[0]
        beta, gamma = f.pole, f.zero
        eta = (1 - beta) / (1 - gamma) if f.gain is None else f.gain
    k, h, s2 = recipe.lr * eta, curvature, noise / batch
    a = k * h
    v = (k * s2 / h) * ((1 + beta) * (1 - gamma) + a * gamma * (1 + gamma))
    v /= (1 - beta + a * gamma) * (2 * (1 + beta) - a * (1 + gamma))
    eff = k * (1 - gamma) / (1 - beta)
    return SimpleNamespace(variance=v, excess_loss=h * v / 2, temperature=eff * s2 / 2, influence=eff)
