"""A whole training loop of plain PyTorch: gradients over micro-batches, clipping, a schedule, saving and going on.

AutoSGM on the 1797 digits that dashpot ships with. The schedule is given to the optimizer and follows its own count of
steps, so the loop has no scheduler to call and none to save. Half of the run, saved, loaded into new objects and
finished, ends at the same weights bit for bit.
Run: python examples/plain_pytorch.py
"""

import tempfile
from pathlib import Path

import torch

import dashpot as dp
from dashpot import tasks

EPOCHS, PARTS = 4, 2
TASK = tasks.get("digits", batch_size=50)


def build(saved=None):
    """The network with the weights of seed 0 and its optimizer, or both as they were saved."""
    problem = TASK.build(0)
    steps = EPOCHS * len(problem.train)
    opt = dp.AutoSGM(
        problem.model.parameters(),
        lr=5e-3,
        numerator=1,
        weight_decay=1e-2,
        max_norm=1.0,  # in place of clip_grad_norm_: inside the step
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
        for x, y in problem.train.epoch(epoch):  # the order is a function of the seed and the epoch
            opt.zero_grad()
            for x_part, y_part in zip(x.chunk(PARTS), y.chunk(PARTS), strict=True):
                loss = problem.loss(model(x_part), y_part) * (len(x_part) / len(x))
                loss.backward()
            opt.step()
        accuracy = tasks.evaluate(problem)["accuracy"]
        print(f"epoch {epoch + 1}: accuracy {accuracy:.3f}, lr {opt.lr_at():.2g}, last step {opt.last_step}")
    return accuracy


def main():
    problem, opt = build()
    accuracy = train(problem, opt, range(EPOCHS))

    half, half_opt = build()
    train(half, half_opt, range(EPOCHS // 2))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "half.pt"
        torch.save({"model": half.model.state_dict(), "opt": half_opt.state_dict()}, file)
        saved = torch.load(file, weights_only=True)  # plain tensors and numbers: nothing in it can run

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
