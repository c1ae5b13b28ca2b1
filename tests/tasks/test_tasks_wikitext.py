"""The task on a random text of the same form as WikiText."""

from __future__ import annotations

import importlib.util
import math
import random

import pytest
import torch

from dashpot.data import encoded_text, gpt2, wikitext
from dashpot.data.byte_pairs import train
from dashpot.data.wikitext import WikiText
from dashpot.errors import ArgumentError, DataError, RunError
from dashpot.tasks import evaluate, get
from dashpot.tasks import wikitext as task_module
from dashpot.tasks.language import bits_per_byte, token_cross_entropy

pytest.importorskip("tokenizers")


def article(seed: int, lines: int) -> bytes:
    draw = random.Random(seed)
    words = ["the", "of", "<unk>", "castle", "built", "river", "1900", "war", "@-@", ",", "."]
    return "".join(" " + " ".join(draw.choices(words, k=12)) + " \n" for _ in range(lines)).encode()


COMPLETE = WikiText("wikitext-2", True, article(0, 200), article(1, 40), article(2, 40), {"wiki.train.tokens": "1"})
PARTIAL = WikiText("wikitext-2", False, article(2, 200), article(1, 40), b"", {"wiki.test.tokens": "2"})


@pytest.fixture(autouse=True)
def text(tmp_path, monkeypatch):
    monkeypatch.setattr(wikitext, "load", lambda data_dir, variants: COMPLETE)
    monkeypatch.setattr(encoded_text, "cache_folder", lambda: tmp_path / "cache")


def test_task_at_smoke_tier_lowers_loss_and_bits_per_byte():
    task = get("wikitext", tier="smoke")
    problem = task.build(0)
    before = evaluate(problem)
    assert before["loss"] == pytest.approx(math.log(task.config["vocabulary"]), abs=0.1)
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=1e-2)
    for x, y in problem.train.epoch(0):
        optimizer.zero_grad()
        problem.loss(problem.model(x), y).backward()
        optimizer.step()
    after = evaluate(problem)
    assert after["loss"] < before["loss"] - 0.3
    assert after["bits_per_byte"] / before["bits_per_byte"] == pytest.approx(after["loss"] / before["loss"], rel=1e-5)


def test_parts_of_the_text_have_one_encoding():
    encoding = train(COMPLETE.train, 512)
    problem = get("wikitext", tier="smoke").build(0)
    assert problem.train.tokens.tolist() == encoding.encode(COMPLETE.train).tolist()
    for batches, content in ((problem.evaluation, COMPLETE.validation), (problem.test, COMPLETE.test)):
        tokens = encoding.encode(content)[:5000].tolist()
        x = batches.x.flatten().tolist()
        assert x == tokens[: len(x)]
        assert len(x) == 32 * ((len(tokens) - 1) // 32)


def test_text_without_training_part_has_no_test_data_and_a_note(monkeypatch):
    monkeypatch.setattr(wikitext, "load", lambda data_dir, variants: PARTIAL)
    task = get("wikitext", tier="smoke")
    assert task.build(0).test is None
    assert "figures are not comparable with published ones" in task.description
    assert task.config["training_data"] == "wiki.test.tokens"
    assert task.config["data_sha256"] == {"wiki.test.tokens": "2"}


def test_config_identifies_text_and_encoding():
    config = get("wikitext", tier="smoke").config
    assert config["variant"] == "wikitext-2"
    assert config["training_data"] == "wiki.train.tokens"
    assert config["encoding_sha256"] == train(COMPLETE.train, 512).sha256
    assert config["evaluated_tokens"] == 5000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tier": "smoke"}, ("wikitext-2", "wikitext-103")),
        ({"tier": "gpu"}, ("wikitext-103", "wikitext-2")),
        ({"tier": "smoke", "variant": "wikitext-103"}, ("wikitext-103",)),
    ],
)
def test_tier_and_option_select_variants(monkeypatch, options, expected):
    def load(data_dir, variants):
        raise DataError(",".join(variants))

    monkeypatch.setattr(wikitext, "load", load)
    with pytest.raises(DataError, match=f"^{','.join(expected)}$"):
        get("wikitext", **options)


def test_gpu_tier_uses_encoding_of_gpt2_and_published_size(monkeypatch):
    monkeypatch.setattr(gpt2, "load", lambda data_dir: train(COMPLETE.train, 300))
    enough = COMPLETE._replace(**{part: article(3, 500) for part in wikitext.PARTS})
    monkeypatch.setattr(wikitext, "load", lambda data_dir, variants: enough)
    task = get("wikitext", tier="gpu")
    assert task.epochs * task.config["steps_per_epoch"] == 100_000
    keys = ("layers", "heads", "width", "block", "vocabulary", "evaluated_tokens")
    assert [task.config[key] for key in keys] == [12, 12, 768, 1024, len(train(COMPLETE.train, 300)), None]
    assert task_module.TIERS["gpu"].vocabulary is None


def test_bits_per_byte_equals_sum_over_tokens():
    lengths = torch.tensor([1, 2, 5])
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 4, 3), torch.randint(3, (2, 4))
    total, count = bits_per_byte(lengths)(logits, targets)
    nats = -logits.log_softmax(-1).gather(-1, targets[..., None])
    assert count == lengths[targets].sum()
    assert total.item() == pytest.approx(nats.sum().item() / math.log(2), rel=1e-6)
    assert token_cross_entropy(logits, targets).item() == pytest.approx(nats.mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tier": "tpu"}, r"wikitext: tier must be one of"),
        ({"variant": "wikitext-1"}, r"wikitext: variant must be one of None, 'wikitext-2', 'wikitext-103', got"),
        ({"batch_size": -1}, r"wikitext: batch_size must be"),
    ],
)
def test_options_out_of_range_raise(options, message):
    with pytest.raises(ArgumentError, match=message):
        get("wikitext", **options)


def test_without_tokenizers_raises_with_extra(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "dashpot.utils.optional_packages.find_spec", lambda name: None if name == "tokenizers" else real(name)
    )
    with pytest.raises(RunError, match=r"^The task wikitext needs tokenizers: pip install 'dashpot\[text\]'\.$"):
        get("wikitext")


@pytest.mark.slow
def test_gpu_tier_trains_on_the_cpu_with_the_same_code(monkeypatch):
    """A step of the network of GPT-2 small, with a small vocabulary and one window."""
    monkeypatch.setattr(gpt2, "load", lambda data_dir: train(COMPLETE.train, 300))
    enough = WikiText("wikitext-103", True, *(article(seed, 300) for seed in range(3)), {})
    monkeypatch.setattr(wikitext, "load", lambda data_dir, variants: enough)
    problem = get("wikitext", tier="gpu", batch_size=1).build(0)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.1)
    x, y = next(problem.train.epoch(0))
    before = problem.loss(problem.model(x), y)
    before.backward()
    optimizer.step()
    assert before.item() == pytest.approx(math.log(293), abs=0.4)
    with torch.no_grad():
        assert problem.loss(problem.model(x), y) < before - 0.1
