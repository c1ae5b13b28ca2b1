"""Losses of the golden ESGD cases as torch functions of their parameters.

Each case contains its `problem`. Kind "quartic": all parameters are flattened and joined into w, and
loss = w'Aw/2 - b'w + c/4 sum w^4. Kind "mlp": the mean over all entries of (W2 tanh(W1 x + b1) + b2 - y)^2.
"""

import golden_data
import torch

FILES = ("esgd_v1", "esgd_v1_gauss", "esgd_v2")


def cases():
    """Return all golden ESGD cases as dicts with the keys id, version, config, groups, problem and steps."""
    return [case for name in FILES for case in golden_data.load(name)["cases"]]


def start(problem):
    """Return the initial parameters in float64, which require gradients."""
    shapes = [torch.Size(shape) for shape in problem["shapes"]]
    if problem["kind"] == "quartic":
        parts = _tensor(problem["init_vector"]).split([shape.numel() for shape in shapes])
    else:
        parts = [_tensor(values) for values in problem["init"]]
    return [part.reshape(shape).clone().requires_grad_() for part, shape in zip(parts, shapes, strict=True)]


def loss_function(problem):
    """Return the loss as a function of the list of parameters."""
    return {"quartic": _quartic, "mlp": _perceptron}[problem["kind"]](problem)


def shaped(values, problem):
    """Reshape a recorded list of flat tensors to the shapes of the problem."""
    return [_tensor(flat).reshape(shape) for flat, shape in zip(values, problem["shapes"], strict=True)]


def parameters_before(case):
    """Return the parameters before each step."""
    problem = case["problem"]
    recorded = [shaped(step["params"], problem) for step in case["steps"][:-1]]
    return [start(problem), *([p.requires_grad_() for p in params] for params in recorded)]


def derivatives(loss, params, draws=None):
    """Return (loss, gradients, products H v of the draws by double backward, or None without draws)."""
    value = loss(params)
    grads = torch.autograd.grad(value, params, create_graph=draws is not None)
    products = None if draws is None else torch.autograd.grad(grads, params, grad_outputs=draws)
    return value.detach(), [g.detach() for g in grads], products


def _quartic(problem):
    A, b, c = _tensor(problem["A"]), _tensor(problem["b"]), problem["c"]

    def loss(params):
        w = torch.cat([p.flatten() for p in params])
        return w @ A @ w / 2 - b @ w + c / 4 * (w**4).sum()

    return loss


def _perceptron(problem):
    inputs, targets = _tensor(problem["X"]), _tensor(problem["Y"])

    def loss(params):
        W1, b1, W2, b2 = params
        return ((torch.tanh(inputs @ W1.T + b1) @ W2.T + b2 - targets) ** 2).mean()

    return loss


def _tensor(values):
    return torch.tensor(values, dtype=torch.float64)
