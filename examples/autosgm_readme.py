"""The optimizers of AutoSGM's README with unchanged tuples; only the import is different.

opt0 to opt7 range from plain stochastic gradients to a moment numerator, and `setups` is the README's training example.
Each optimizer runs for a few steps. Run: python examples/autosgm_readme.py
"""

import math

import torch

from dashpot import AutoSGM

num_epochs = 1
iters_epoch = int(1e9)
pole = 0.9
nesterov_zero = pole / (1 + pole)
autosgm_zero = 1 - math.sqrt(2 * (1 - pole))

cosine = (1, 0, 0, 2, 1, num_epochs, iters_epoch, 1, 0)
linear = (2, 0, 0, 1, 1, num_epochs, iters_epoch, 1, 0)
unfiltered = (0.9999, 0.999, 0, 0.0, 0, True)
heavy_ball = (0.9999, 0.999, pole, 0.0, 0, True)
nesterov = (0.9999, 0.999, pole, nesterov_zero, 0, True)
recommended = (0.9999, 0.999, pole, autosgm_zero, 0, True)
coupled, change_level = (1e-4, 0), (1e-2, 1)

# name: (lr_cfg, beta_cfg, rc_cfg, wd_cfg)
EXAMPLES = {
    "opt0, plain, constant rate": ((False, 1e-3, 0), unfiltered, None, coupled),
    "opt1, RMSProp": ((True, 1e-3, 0), unfiltered, cosine, coupled),
    "opt2, cosine annealing": ((True, 1e-3, 0), unfiltered, cosine, coupled),
    "opt3, heavy ball and change-level decay": ((True, 1e-3, 0), heavy_ball, cosine, change_level),
    "opt4, Nesterov's zero": ((True, 1e-3, 0), nesterov, cosine, change_level),
    "opt5, linear decay": ((True, 1e-3, 0), nesterov, linear, change_level),
    "opt6, partial correlation": ((True, 1e-3, 1), recommended, linear, change_level),
    "opt6, Huberized partial correlation": ((True, 1e-3, 2), recommended, linear, change_level),
    "opt7, moment numerator": ((True, 1e-2, 3), recommended, linear, change_level),
}


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.ReLU(), torch.nn.Linear(50, 1))


def train(model, opt, steps=3):
    """Take a few least-squares steps on fixed random data and return the loss before each step."""
    inputs = torch.randn(32, 10, generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(steps):
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        losses.append(loss.item())
        loss.backward()
        opt.step()
        opt.zero_grad()
    return losses


def run_examples():
    results = {}
    for name, (lr_cfg, beta_cfg, rc_cfg, wd_cfg) in EXAMPLES.items():
        model = network()
        opt = AutoSGM(
            model.parameters(), lr_cfg=lr_cfg, beta_cfg=beta_cfg, rc_cfg=rc_cfg, wd_cfg=wd_cfg, eps_cfg=(1e-8,)
        )
        results[name] = train(model, opt)
    return results


def setups():
    model = network()
    opt = AutoSGM(
        model.parameters(),
        lr_cfg=(True, 1e-2, 3),
        beta_cfg=(0.9999, 0.999, 0.9, 0.5528, 0, True),
        rc_cfg=(1, 0, 0, 2, 1, num_epochs, 100000, 1, 0),
        wd_cfg=(0.0, 1),
        eps_cfg=(1e-10,),
    )
    return train(model, opt)


if __name__ == "__main__":
    for name, losses in {**run_examples(), "setups": setups()}.items():
        print(f"{name:42} loss {losses[0]:.4f} -> {losses[-1]:.4f}")
