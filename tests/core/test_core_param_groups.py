"""`param_groups`: every trainable parameter is in exactly one group, with the right decay and its name."""

import inspect

import pytest
import torch
from subjects import known_products
from torch import nn

import dashpot as dp
from dashpot.errors import ArgumentError
from dashpot.optimizers.registry import METHODS


class Scaled(nn.Module):
    """Model with direct parameters, nested modules, a list, a buffer and a custom norm class."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.bias = nn.Parameter(torch.zeros(3))
        self.blocks = nn.ModuleList([nn.Linear(3, 3), OwnNorm(3)])
        self.extra = nn.ParameterList([nn.Parameter(torch.ones(2, 2))])
        self.register_buffer("count", torch.zeros(7))
        self.absent = None

    def forward(self, x):
        return self.blocks[1](self.blocks[0](x)) * self.scale + self.bias + self.extra[0].sum()


class OwnNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.gain * x / x.norm()


class Grouped(nn.Module):
    """A normalization without any recognizable feature."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(2, 3))


class Tied(nn.Module):
    """A language model whose head shares the embedding weight."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


def names(groups, decays):
    return [row.name for row in groups.rows if row.decays is decays]


def members(groups):
    return [p for group in groups for _, p in group["params"]]


NETWORKS = {
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    ),
    "recurrent": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "direct": Scaled,
    "embedding": lambda: nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.EmbeddingBag(5, 3)),
    "no bias": lambda: nn.Sequential(nn.Linear(2, 2, bias=False), nn.LayerNorm(2, bias=False), nn.RMSNorm(2)),
    "lone parameter": lambda: OwnNorm(2),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("options", [{}, {"decay_norms": True, "decay_biases": True}, {"decay_embeddings": False}])
def test_every_parameter_is_in_exactly_one_group(network, options):
    """The groups contain the same tensors, names and number of elements as the model."""
    model = network()
    groups = dp.param_groups(model, 0.1, **options)
    wanted = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    got = [(name, id(p)) for group in groups for name, p in group["params"]]
    assert len(got) == len(wanted)
    assert dict(got) == wanted
    assert sum(p.numel() for p in members(groups)) == sum(p.numel() for p in model.parameters())
    assert [row.name for row in groups.rows] == list(wanted)
    assert [row.shape for row in groups.rows] == [tuple(p.shape) for p in model.parameters()]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2),
        nn.BatchNorm3d(2),
        nn.SyncBatchNorm(2),
        nn.InstanceNorm2d(2, affine=True),
        nn.LayerNorm(2),
        nn.GroupNorm(1, 2),
        nn.RMSNorm(2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_normalization_layers_do_not_decay(norm):
    model = nn.Sequential(nn.Linear(2, 2), norm)
    groups = dp.param_groups(model, 0.1)
    assert names(groups, True) == ["0.weight"]
    assert names(groups, False) == ["0.bias", *[f"1.{name}" for name, _ in norm.named_parameters()]]
    assert {row.reason for row in groups.rows if row.name.startswith("1.")} == {type(norm).__name__}
    assert names(dp.param_groups(model, 0.1, decay_norms=True), False) == ["0.bias"]


def test_norm_subclasses_and_the_norms_argument():
    class Special(nn.LayerNorm):
        pass

    assert names(dp.param_groups(nn.Sequential(nn.Linear(1, 1, bias=False), Special(1)), 0.1), False) == [
        "1.weight",
        "1.bias",
    ]
    told = dp.param_groups(nn.Sequential(Grouped(), nn.Linear(2, 2)), 0.1, norms=(Grouped,))
    assert {row.name: row.reason for row in told.rows if not row.decays} == {"0.table": "Grouped", "1.bias": "bias"}


def test_biases_do_not_decay_by_default():
    """This covers the biases of linear, convolution, attention and recurrent layers."""
    model = nn.ModuleDict({"lstm": nn.LSTM(2, 2), "attention": nn.MultiheadAttention(2, 1), "conv": nn.Conv1d(1, 1, 1)})
    assert names(dp.param_groups(model, 0.1), False) == [
        "lstm.bias_ih_l0",
        "lstm.bias_hh_l0",
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "conv.bias",
    ]
    assert names(dp.param_groups(model, 0.1, decay_biases=True), False) == []
    assert len(dp.param_groups(model, 0.1, decay_biases=True)) == 1


def test_bias_of_a_norm_follows_decay_norms():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert names(dp.param_groups(model, 0.1, decay_biases=True), False) == ["1.weight", "1.bias"]
    assert names(dp.param_groups(model, 0.1, decay_norms=True), False) == ["0.bias"]


def test_embeddings_decay_by_default():
    model = nn.Sequential(nn.Embedding(3, 2), nn.EmbeddingBag(3, 2), nn.Linear(2, 2, bias=False))
    assert names(dp.param_groups(model, 0.1), False) == []
    assert names(dp.param_groups(model, 0.1, decay_embeddings=False), False) == ["0.weight", "1.weight"]


def test_parameters_of_a_custom_module():
    groups = dp.param_groups(Scaled(), 0.1)
    assert names(groups, True) == ["blocks.0.weight", "extra.0"]
    assert names(groups, False) == ["scale", "bias", "blocks.0.bias", "blocks.1.gain"]


def test_frozen_parameters_are_excluded():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert [row.name for row in dp.param_groups(model, 0.1).rows] == ["1.weight", "1.bias"]
    model.requires_grad_(False)
    with pytest.raises(ArgumentError, match=r"^param_groups: the model must have at least one trainable parameter"):
        dp.param_groups(model, 0.1)


def test_tied_parameters_are_rejected_with_both_names():
    with pytest.raises(
        ArgumentError, match=r"'head.weight' and 'embedding.weight' are one tied parameter; pass allow_"
    ):
        dp.param_groups(Tied(), 0.1)


def test_allowed_tied_parameter_follows_its_first_name():
    model = Tied()
    groups = dp.param_groups(model, 0.1, decay_embeddings=False, allow_tied=True)
    assert names(groups, True) == []
    assert names(groups, False) == ["embedding.weight", "head.bias"]
    assert len(members(groups)) == len(list(model.parameters())) == 2


def test_table_shows_every_name_of_a_tied_parameter():
    groups = dp.param_groups(Tied(), 0.1, allow_tied=True)
    assert {row.name: row.reason for row in groups.rows}["embedding.weight"] == "Embedding, also head.weight"


def test_module_used_twice_is_not_tied():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.ReLU(), nn.Sequential(layer))
    assert [(row.name, row.reason) for row in dp.param_groups(model, 0.1).rows] == [
        ("0.weight", "Linear"),
        ("0.bias", "bias"),
    ]


def test_frozen_tied_parameter_is_excluded():
    model = Tied()
    model.embedding.weight.requires_grad_(False)
    assert [row.name for row in dp.param_groups(model, 0.1).rows] == ["head.bias"]


def test_groups_print_as_a_table():
    groups = dp.param_groups(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), 0.25)
    assert str(groups).splitlines() == [
        "name      shape              decay  reason",
        "0.weight  (2, 1, 3, 3)       yes    Conv2d",
        "0.bias    (2,)               no     bias",
        "1.weight  (2,)               no     BatchNorm2d",
        "1.bias    (2,)               no     BatchNorm2d",
        "weight_decay=0.25: 1 tensors, 18 elements",
        "weight_decay=0.0: 3 tensors, 6 elements",
    ]


def test_table_prints_after_use_by_an_optimizer():
    """torch's optimizers modify the given dicts; dashpot's do not."""
    groups = dp.param_groups(nn.Linear(2, 3), 0.1)
    before = str(groups)
    dp.AdamW(groups)
    dp.SGD(groups)
    assert str(groups) == before
    torch.optim.AdamW(groups)
    assert str(groups) == before


def test_further_settings_apply_to_both_groups():
    groups = dp.param_groups(nn.Linear(2, 2), 0.1, lr=0.5, betas=(0.8, 0.9))
    opt = dp.AdamW(groups)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.1, 0.0]
    assert [(group["lr"], group["betas"]) for group in opt.param_groups] == [(0.5, (0.8, 0.9))] * 2


def made(method, groups):
    """Return the optimizer, with known Hessian-vector products if it uses products."""
    return method(groups, probe=known_products) if issubclass(method, dp.SecondOrder) else method(groups)


@pytest.mark.parametrize("method", [row.cls for row in METHODS.values()], ids=METHODS)
def test_every_method_accepts_the_groups_and_saves_names(method):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    opt = made(method, dp.param_groups(model, 0.5))
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 3)).square().mean().backward()
    opt.step()
    saved = opt.state_dict()["param_groups"]
    assert [group["param_names"] for group in saved] == [
        ["0.weight", "2.weight"],
        ["0.bias", "1.weight", "1.bias", "2.bias"],
    ]
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("method", [row.cls for row in METHODS.values()], ids=METHODS)
def test_only_the_decaying_group_decays(method):
    if "weight_decay" not in inspect.signature(method).parameters:
        pytest.skip("has no weight decay")
    """With zero gradients, weights change exactly if they decay."""
    model = nn.Linear(2, 2)
    opt = made(method, dp.param_groups(model, 0.5))
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    assert (model.weight != weight).all()
    assert torch.equal(model.bias, bias)


def test_state_is_matched_by_name_for_a_reordered_model():
    def network(order):
        torch.manual_seed(0)
        layers = {"a": nn.Linear(2, 3), "b": nn.LayerNorm(3)}
        return nn.ModuleDict({name: layers[name] for name in order})

    first, second = network("ab"), network("ba")
    one, two = dp.AdamW(dp.param_groups(first, 0.1)), dp.AdamW(dp.param_groups(second, 0.1))
    for p in first.parameters():
        p.grad = torch.randn_like(p)
    one.step()
    two.load_state_dict(one.state_dict())
    for name, p in first.named_parameters():
        other = dict(second.named_parameters())[name]
        assert torch.equal(one.state[p]["exp_avg"], two.state[other]["exp_avg"])


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), "0.1", True])
def test_invalid_decay_is_rejected(bad):
    with pytest.raises(
        ArgumentError, match=r"^param_groups: weight_decay must be None or a number in \[0, inf\), got "
    ):
        dp.param_groups(nn.Linear(1, 1), bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay_norm": True}, "unknown argument 'decay_norm': did you mean 'decay_norms'"),
        ({"decay_baises": True}, "unknown argument 'decay_baises': did you mean 'decay_biases'"),
        ({"norm": (OwnNorm,)}, "unknown argument 'norm': did you mean 'norms'"),
        ({"params": []}, "unknown argument 'params': did you mean 'model'"),
        ({"norms": OwnNorm}, "norms must be a tuple of module classes, got <class"),
        ({"decay_biases": "no"}, "decay_biases must be one of False, True, got 'no'"),
        ({"model": nn.Linear(1, 1).parameters()}, "model must be a torch.nn.Module, got generator"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ArgumentError, match=f"^param_groups: {message}"):
        dp.param_groups(**{"model": nn.Linear(1, 1), "weight_decay": 0.1, **arguments})


# ---- no_decay -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_decay", "expected"),
    [
        ((), []),
        (("norms",), ["blocks.1.gain"]),
        (("bias",), ["bias", "blocks.0.bias"]),
        (("norms", "biases", "vectors"), ["scale", "bias", "blocks.0.bias", "blocks.1.gain"]),
        (("blocks.0.*", "extra.*"), ["blocks.0.weight", "blocks.0.bias", "extra.0"]),
        (("norms", "scale"), ["scale", "blocks.1.gain"]),
    ],
)
def test_no_decay_names_kinds_and_patterns(no_decay, expected):
    groups = dp.param_groups(Scaled(), 0.25, no_decay=no_decay)
    assert sorted(names(groups, False)) == sorted(expected)
    assert [group["weight_decay"] for group in groups] == ([0.25, 0.0] if expected else [0.25])


def test_biases_of_norms_are_norms_and_biases():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    assert names(dp.param_groups(model, no_decay=("bias",)), False) == ["0.bias", "1.bias"]
    assert names(dp.param_groups(model, no_decay=("norms",)), False) == ["1.weight", "1.bias"]


def test_no_decay_covers_embeddings_and_tied_parameters_once():
    groups = dp.param_groups(Tied(), no_decay=("embeddings",), allow_tied=True)
    assert names(groups, False) == ["embedding.weight"]
    assert names(groups, True) == ["head.bias"]
    assert len(members(groups)) == 2


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW, dp.SGD, dp.AdamW, dp.AutoSGM, dp.ESGD])
def test_groups_without_weight_decay_have_that_of_the_optimizer(make):
    groups = dp.param_groups(nn.Linear(2, 2), no_decay=("bias",))
    assert "weight_decay" not in groups[0]
    assert "the optimizer's weight_decay: 1 tensors, 4 elements" in repr(groups)
    opt = make(groups, lr=0.1, weight_decay=0.125)
    assert [group["weight_decay"] for group in opt.param_groups] == [0.125, 0.0]


def test_marked_parameters_never_decay():
    model = nn.Linear(2, 2)
    model.weight._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
    assert names(dp.param_groups(model, 0.1, no_decay=()), False) == ["weight"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"no_decay": "bias"}, "no_decay must be a sequence of kinds and names, got 'bias'"),
        ({"no_decay": (3,)}, r"no_decay must be a sequence of kinds and names, got \(3,\)"),
        ({"no_decay": ("norm",)}, "got 'norm'; did you mean 'norms'"),
        (
            {"no_decay": ("head.*",)},
            r"no_decay must contain norms, biases, .* got 'head\.\*'\.",
        ),
        ({"no_decay": ("bias",), "decay_norms": True}, "no_decay must be None if decay_norms, decay_biases"),
        ({"weight_decay": -1.0, "no_decay": ("bias",)}, "weight_decay must be None or a number in"),
    ],
)
def test_invalid_no_decay_raises(options, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        dp.param_groups(Scaled(), **options)
