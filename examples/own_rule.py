"""A user-defined stage in ten lines that supports checkpoints, schedules and diff.

The stage is the mask of "Cautious Optimizers" (Liang et al., arXiv 2411.16085): elements whose direction and current
gradient have different signs are not updated, and the other elements are scaled up to preserve the mean step.
Run: python examples/own_rule.py
"""

import io
from dataclasses import dataclass

import torch

import dashpot as dp


@dataclass(frozen=True)
class Cautious(dp.Stage):
    floor: float = 1e-3
    slots = (dp.per_tensor("share", "agreeing_share"),)
    position = 4

    def apply(self, x, s, c, ctx):
        agrees = (x.v * x.g > 0).to(x.v)
        share = ctx.mean(agrees)
        return x._replace(v=x.v * agrees / share.clamp_min(c.floor)), s._replace(share=share)


STEPS = 40


def build():
    """Return initial weights, and an AdamW that applies the mask before the weight decay."""
    torch.manual_seed(0)
    w = torch.randn(50, requires_grad=True)
    schedule = {"lr": dp.schedules.Cosine(STEPS), "floor": dp.schedules.Linear(start=1.0, end=0.1, steps=STEPS)}
    adam = {"filter": dp.Filter(0.9), "rate": dp.SecondMoment(0.99)}
    opt = dp.SGM([w], 0.1, **adam, robust=Cautious(), decay=dp.DecoupledDecay(0.01), schedule=schedule)
    return w, opt


def train(w, opt, first, last):
    curvature = torch.linspace(0.1, 10, 50)
    for step in range(first, last):
        noise = torch.randn(50, generator=torch.Generator().manual_seed(step))
        w.grad = curvature * w.detach() + noise
        opt.step()


def main():
    w, opt = build()
    train(w, opt, 0, STEPS)

    # Save a checkpoint halfway, load it into a new optimizer, and finish: the weights are bit-identical.
    half, half_opt = build()
    train(half, half_opt, 0, STEPS // 2)
    file = io.BytesIO()
    torch.save({"w": half.detach(), "opt": half_opt.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed, resumed_opt = build()
    with torch.no_grad():
        resumed.copy_(saved["w"])
    resumed_opt.load_state_dict(saved["opt"])
    train(resumed, resumed_opt, STEPS // 2, STEPS)

    same = torch.equal(w, resumed)
    changes = dp.diff(dp.AdamW.recipe_for(lr=0.1), opt)
    restored = dp.Recipe.from_dict(opt.recipe.to_dict())
    print(opt.recipe)
    print(changes)
    print(f"agreeing share {opt.state[w]['agreeing_share'].item():.2f}; resumed run identical: {same}")
    return same, changes, restored == opt.recipe, opt.state[w]["agreeing_share"].item()


if __name__ == "__main__":
    same, changes, round_trips, share = main()
