"""A training loop in plain PyTorch with gradient accumulation, clipping, a schedule, checkpoints and resuming.

AutoSGM trains on the 1797 bundled digits. The schedule is part of the optimizer and depends on its step count, so the
loop does not step or save a scheduler. A run that is saved halfway, loaded into new objects and finished has
bit-identical weights.
Run: python examples/plain_pytorch.py
"""

import tempfile
from pathlib import Path

import torch

import dashpot as dp
from dashpot import tasks

EPOCHS, MICRO_BATCHES = 4, 2
TASK = tasks.get("digits", batch_size=50)


def build(saved=None):
    """Return the problem and its optimizer, either new or restored from `saved`."""
    problem = TASK.build(0)
    steps = EPOCHS * len(problem.train)
    opt = dp.AutoSGM(
        problem.model.parameters(),
        lr=5e-3,
        numerator=1,
        weight_decay=1e-2,
        max_norm=1.0,  # clips inside the step, like clip_grad_norm_
        schedule=dp.schedules.Sequence(
            (dp.schedules.LinearWarmup(10, start=0.1), dp.schedules.Cosine(steps - 10)), milestones=(10,)
        ),
    )
    if saved is not None:
        problem.model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
    return problem, opt


def train(problem, opt, epochs):
    model = problem.model.train()
    for epoch in epochs:
        for x, y in problem.train.epoch(epoch):  # the order depends on the seed and the epoch
            opt.zero_grad()
            for x_micro, y_micro in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
                loss = problem.loss(model(x_micro), y_micro) * (len(x_micro) / len(x))
                loss.backward()
            opt.step()
        accuracy = tasks.evaluate(problem)["accuracy"]
        print(f"epoch {epoch + 1}: accuracy {accuracy:.3f}, lr {opt.current_lr():.2g}, last step {opt.last_step}")
    return accuracy


def main():
    problem, opt = build()
    accuracy = train(problem, opt, range(EPOCHS))

    half, half_opt = build()
    train(half, half_opt, range(EPOCHS // 2))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "half.pt"
        torch.save({"model": half.model.state_dict(), "opt": half_opt.state_dict()}, file)
        saved = torch.load(file, weights_only=True)  # tensors and numbers only

    resumed, resumed_opt = build(saved)
    train(resumed, resumed_opt, range(EPOCHS // 2, EPOCHS))

    pairs = zip(problem.model.parameters(), resumed.model.parameters(), strict=True)
    same = all(torch.equal(a, b) for a, b in pairs)
    print(f"accuracy {accuracy:.3f} after {opt.steps_done()} steps; resumed run identical: {same}")
    return accuracy, same


if __name__ == "__main__":
    accuracy, same = main()
    assert accuracy > 0.85
    assert same
