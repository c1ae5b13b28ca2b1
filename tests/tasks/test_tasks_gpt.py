"""The GPT equals an implementation with explicit sums, and has the published numbers of parameters."""

from __future__ import annotations

import math

import pytest
import torch

from dashpot.tasks.gpt import GPT, GPTSize, token_cross_entropy

SMALL = GPTSize(layers=2, heads=2, width=6, block=5)


def count(vocabulary: int, size: GPTSize) -> int:
    return sum(parameter.numel() for parameter in GPT(vocabulary, size).parameters())


def reference(weights: dict[str, torch.Tensor], tokens: torch.Tensor, size: GPTSize) -> torch.Tensor:
    """Logits of one sequence of tokens, one position at a time, with Python sums over positions and heads."""
    x = [weights["tokens.weight"][token] + weights["positions.weight"][t] for t, token in enumerate(tokens.tolist())]
    for layer in range(size.layers):
        part = {k.removeprefix(f"blocks.{layer}."): v for k, v in weights.items() if k.startswith(f"blocks.{layer}.")}
        x = [old + new for old, new in zip(x, attention(part, x, size.heads), strict=True)]
        x = [old + network(part, old) for old in x]
    return torch.stack([weights["tokens.weight"] @ normalized(weights["norm.weight"], each) for each in x])


def normalized(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean()
    return weight * centred / (centred.square().mean() + 1e-5).sqrt()


def attention(part: dict[str, torch.Tensor], x: list[torch.Tensor], heads: int) -> list[torch.Tensor]:
    first, last = part["attention.1.first.weight"], part["attention.1.last.weight"]
    triples = [(first @ normalized(part["attention.0.weight"], each)).chunk(3) for each in x]
    size = len(x[0]) // heads
    results = []
    for t in range(len(x)):
        outputs = []
        for head in range(heads):
            part_of_head = slice(head * size, (head + 1) * size)
            query = triples[t][0][part_of_head]
            scores = [query @ triples[s][1][part_of_head] / math.sqrt(size) for s in range(t + 1)]
            shares = torch.stack(scores).exp()
            shares = shares / shares.sum()
            outputs.append(sum(shares[s] * triples[s][2][part_of_head] for s in range(t + 1)))
        results.append(last @ torch.cat(outputs))
    return results


def network(part: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    u = part["network.1.first.weight"] @ normalized(part["network.0.weight"], x)
    return part["network.1.last.weight"] @ (u * (1 + torch.erf(u / math.sqrt(2))) / 2)


def test_gpt_logits_and_gradients_equal_explicit_sums():
    torch.manual_seed(0)
    model = GPT(11, SMALL).double()
    for parameter in model.parameters():  # larger than the initial weights, so that no term is negligible
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    tokens = torch.randint(11, (2, 4))
    targets = torch.randint(11, (2, 4))
    weights = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    logits = torch.stack([reference(weights, each, SMALL) for each in tokens])
    torch.testing.assert_close(model(tokens), logits, rtol=1e-12, atol=1e-12)  # double rounding of about 100 sums
    token_cross_entropy(model(tokens), targets).backward()
    (-logits.log_softmax(-1).gather(-1, targets[..., None]).mean()).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-10, atol=1e-12, msg=name)


def test_gpt_output_does_not_depend_on_later_tokens():
    torch.manual_seed(0)
    model = GPT(11, SMALL)
    tokens = torch.randint(11, (1, 5))
    changed = tokens.clone()
    changed[0, 3:] = (changed[0, 3:] + 1) % 11
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("vocabulary", "size", "expected"),
    [
        (65, GPTSize(4, 4, 128, 64), 804_096),  # nanoGPT prints .80M, without the 8192 positions
        (65, GPTSize(6, 6, 384, 256, 0.2), 10_745_088),  # nanoGPT prints 10.65M, without the 98 304 positions
    ],
)
def test_gpt_has_published_number_of_parameters(vocabulary, size, expected):
    assert count(vocabulary, size) == expected


@pytest.mark.slow
def test_gpt2_small_differs_from_published_count_by_biases():
    """GPT-2 small has 124 439 808 parameters, with 102 144 biases of linear layers and normalizations."""
    with torch.device("meta"):
        found = count(50_257, GPTSize(12, 12, 768, 1024))
    biases_of_block = 2 * 768 + 3 * 768 + 768 + 4 * 768 + 768
    assert found == 124_439_808 - (12 * biases_of_block + 768) == 124_337_664


def test_initial_weights_have_published_deviations_and_loss_is_uniform():
    torch.manual_seed(0)
    model = GPT(65, GPTSize(4, 4, 128, 64))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        expected = 0.02 / math.sqrt(8) if name.endswith("last.weight") else 0.02
        # 8320 or more draws: the relative error of a deviation is below .8 %, one sigma
        assert parameter.std().item() == pytest.approx(expected, rel=0.04), name
        assert abs(parameter.mean().item()) < 0.04 * expected, name
    tokens = torch.randint(65, (12, 65))
    loss = token_cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).item()
    # The logits have a deviation of about .02 sqrt(128) = .23, which adds half their variance, .03, to ln 65.
    assert math.log(65) < loss < math.log(65) + 0.06


def test_dropout_acts_on_embeddings_attention_and_both_branches_only_in_training():
    model = GPT(11, GPTSize(2, 3, 12, 7, dropout=0.5))
    assert sum(isinstance(each, torch.nn.Dropout) for each in model.modules()) == 1 + 2 * 2
    assert {each.rate for each in model.modules() if hasattr(each, "rate")} == {0.5}
    tokens = torch.randint(11, (2, 7))
    torch.manual_seed(0)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("name", ["dropout", "blocks.0.attention.1.dropout", "blocks.0.network.1.dropout"])
def test_dropout_with_probability_one_removes_each_part(name):
    """A module with probability 1 must change the output, so each place is used."""
    torch.manual_seed(0)
    model = GPT(11, GPTSize(1, 3, 12, 7))
    tokens = torch.randint(11, (2, 7))
    before = model(tokens)
    model.get_submodule(name).p = 1.0
    assert not torch.equal(model(tokens), before)
