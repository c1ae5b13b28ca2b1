"""A plain PyTorch loop on 1797 real digits in which only the line that creates the optimizer uses dashpot.

Run: python examples/swap_one_import.py
"""

import torch

import dashpot as dp
from dashpot.data import digits


def data():
    images = digits.load()
    arrays = (images.train_images / 16, images.train_labels, images.eval_images / 16, images.eval_labels)
    x, y, x_eval, y_eval = (torch.tensor(a) for a in arrays)
    return x.float().flatten(1), y.long(), x_eval.float().flatten(1), y_eval.long()


def main(epochs=4, batch=50):
    torch.manual_seed(0)
    x, y, x_eval, y_eval = data()
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    opt = dp.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)  # was torch.optim.AdamW
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=epochs * len(x) // batch)

    for epoch in range(epochs):
        for indices in torch.randperm(len(x)).split(batch):
            opt.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[indices]), y[indices])
            loss.backward()
            opt.step()
            scheduler.step()
        accuracy = (model(x_eval).argmax(1) == y_eval).float().mean().item()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, accuracy {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    accuracy = main()
