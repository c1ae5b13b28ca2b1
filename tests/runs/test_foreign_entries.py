"""Entries for classes of torch.optim and for optimizers in Python files: names, settings, rates and bad input."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dashpot.comparison import CombinedOptimizer, Dimension, entry, search_space
from dashpot.errors import ArgumentError
from dashpot.runs.method_specs import absolute_methods, parse_methods
from dashpot.runs.muon import MuonWithAdamW
from dashpot.runs.search_space import apply, default_values
from dashpot.runs.study import describe
from dashpot.runs.study_names import StudyNames

FILE = """
import torch

class Half(torch.optim.SGD):
    SEARCH_SPACE = {"lr": (1e-4, 1.0, "log"), "momentum": (0.0, 0.99), "warmup": (0, 0.2)}
    def __init__(self, params, lr=0.5, momentum=0.0):
        super().__init__(params, lr, momentum)

class Matrices(torch.optim.SGD):
    def __init__(self, params, lr=0.5):
        params = list(params)
        if any(p.ndim != 2 for p in params):
            raise ValueError("only matrices are supported")
        super().__init__(params, lr)

def by_model(params, lr, model):
    return torch.optim.SGD([model[0].weight], lr)

def keywords(params, lr=0.1, **others):
    return torch.optim.Adam(params, lr, **others)

def nothing(params, lr=0.1):
    return None

class Bare(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        self.lr = lr

def others(params, lr=0.1):
    return torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr)

def no_rate(params):
    return torch.optim.SGD(params, 0.1)

NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FILE)
    return path


def model() -> Any:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2))


def loss(net: nn.Module) -> torch.Tensor:
    x = torch.linspace(-1, 1, 48, dtype=torch.float32).view(3, 1, 4, 4)
    return net(x).square().sum()


def make(text: str) -> torch.optim.Optimizer:
    [spec] = parse_methods(text)
    return entry(spec.method, "toy", options=spec.options).optimizer_of(model(), 10)


def test_methods_are_parsed_with_settings_and_names():
    text = "adamw,torch.optim.SGD:momentum=0.9,lr=0.1,mine/own.py:Lion:betas=0.9,0.99,mine/own.py:Lion"
    specs = parse_methods(text)
    assert [spec.method for spec in specs] == ["adamw", "torch.optim.SGD", "mine/own.py:Lion", "mine/own.py:Lion"]
    assert [spec.name for spec in specs] == [
        "adamw",
        "torch-SGD-momentum-0.9-lr-0.1",
        "own.Lion-betas-0.9-0.99",
        "own.Lion",
    ]


def test_paths_in_methods_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_methods("adamw,own.py:A:lr=0.1,x=1") == f"adamw,{tmp_path / 'own.py'}:A:lr=0.1,x=1"


@pytest.mark.parametrize("folder", ["a,b", "a=1", "a:b"])
def test_paths_with_separators_are_rejected(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / folder)
    with pytest.raises(ArgumentError, match=r"^The path of an optimizer file must not contain a comma.* got /.*py\.$"):
        absolute_methods("adamw,own.py:A:lr=0.1")


def test_files_of_the_same_name_are_rejected():
    with pytest.raises(ArgumentError, match=r"^a/own.py:A and b/own.py:A have the same name, own.A; rename one"):
        StudyNames("digits", methods="a/own.py:A,b/own.py:A").study()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torch.optim.adamW", r"class of torch.optim 'adamW': did you mean 'AdamW'"),
        ("torch.optim.Optimizer", "Unknown class of torch.optim"),
        ("torch.optim.LBFGS", "torch.optim.LBFGS: step must not require a closure"),
        ("torch.optim.SparseAdam", "accepts only sparse gradients"),
        ("torch.optim.SGD:mementum=1", r"setting of torch.optim.SGD 'mementum': did you mean 'momentum'"),
        ("torch.optim.Muon:adamw_beta=1", r"setting of torch.optim.Muon 'adamw_beta': did you mean 'adamw_betas'"),
        ("torch.optim.Muon:adamw_lr=-1", r"torch.optim.Muon: adamw_lr must be"),
        ("torch.optim.SGD:rounding=kahan", "rounding is an option of the optimizers of dashpot"),
        ("torch.optim.SGD:max_norm=-1", r"torch.optim.SGD: max_norm must be .* got -1"),
        ("torch.optim.SGD:nonfinite=jump", r"torch.optim.SGD: nonfinite must be"),
        ("torch.optim.Adam:betas=2,0.9", r"torch.optim.Adam: ValueError: Invalid beta parameter at index 0: 2"),
        ("timm.optim.Lamb", r"path/to/file.py:NAME, such as own.py:Lamb"),
        ("own.py", r"own.py: an optimizer in a file must be given as own.py:NAME"),
        ("own.py:lr=0.1", r"own.py: an optimizer in a file must be given as own.py:NAME"),
        ("none.py:Half", r"Optimizer file none.py cannot be read: No such file"),
        ("own.py:Lost", r"own.py has no `Lost`"),
        ("own.py:NUMBER", r"own.py:NUMBER must be an optimizer class or a function, got 3"),
        ("own.py:no_rate", r"own.py:no_rate must have a parameter lr"),
        ("own.py:by_model", r"no default learning rate; give one, as in own.py:by_model:lr=0.01"),
        ("own.py:nothing", r"own.py:nothing must create a torch.optim.Optimizer, got None"),
        ("own.py:Bare", r"own.py:Bare has no parameter groups; its __init__ must call super\(\).__init__"),
        ("own.py:others", r"own.py:others must update parameters that it is given, got an optimizer of other tensors"),
        ("own.py:keywords:speed=1", r"own.py:keywords: TypeError: .*speed"),
        ("own.py:Matrices", r"own.py:Matrices: ValueError: only matrices are supported. A factory in a file can give"),
    ],
)
def test_bad_input_raises(file, monkeypatch, text, message):
    monkeypatch.chdir(file.parent)
    with pytest.raises(ArgumentError, match=message) as error:
        make(text)
    assert "\n" not in str(error.value)


def test_rates_are_those_of_the_method_with_the_same_update_or_of_the_class(file):
    assert entry("torch.optim.AdamW", "digits").lr == entry("adamw", "digits").lr == 0.01
    assert entry("torch.optim.AdamW", "other").lr == 1e-3
    assert entry("torch.optim.RAdam", "digits").lr == 1e-3
    assert entry(f"{file}:Half", "digits").lr == 0.5
    assert entry(f"{file}:by_model", "digits", lr=0.2).lr == 0.2


def test_factory_with_a_parameter_model_gets_the_model(file):
    net = model()
    optimizer = entry(f"{file}:by_model", "toy", lr=0.1).optimizer_of(net, 10)
    assert optimizer.param_groups[0]["params"] == [net[0].weight]


def test_call_states_the_file_and_the_settings_of_the_loop(file):
    made = entry(f"{file}:Half", "toy", options={"max_norm": 1.0, "momentum": 0.5}, schedule="cosine")
    assert made.call(8) == (
        "own.Half(model.parameters(), lr=0.5, momentum=0.5)  # in the loop: schedule=Cosine(steps=8, floor=0.0, "
        "after='hold'), max_norm=1.0"
    )
    assert made.file_sha256 is not None


# ---- search spaces --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("torch.optim.SGD", ["lr", "warmup"]),
        ("torch.optim.SGD:momentum=0.9,weight_decay=1e-4", ["lr", "weight_decay", "1-momentum", "warmup"]),
        ("torch.optim.RMSprop:momentum=0.9", ["lr", "1-momentum", "warmup"]),
        ("torch.optim.Adadelta", ["lr", "warmup"]),
        ("torch.optim.NAdam", ["lr", "1-momentum", "warmup"]),
        ("torch.optim.AdamW", ["lr", "weight_decay", "1-momentum", "warmup"]),
        ("torch.optim.Muon", ["lr", "adamw_lr", "weight_decay", "momentum", "warmup"]),
    ],
)
def test_search_spaces_of_torch_classes(method, names):
    [spec] = parse_methods(method)
    made = entry(spec.method, "digits", options=spec.options)
    assert list(search_space(made)) == names
    changed = default_values(apply(made, {name: 0.125 for name in names if name != "warmup"}))
    assert {name: changed[name] for name in names} == {**dict.fromkeys(names, 0.125), "warmup": 0.0}


@pytest.mark.parametrize(
    ("method", "argument"),
    [
        ("torch.optim.AdamW", "betas=(0.9, 0.95)"),
        ("adamw", "betas=(0.9, 0.95)"),
        ("torch.optim.RMSprop", "alpha=0.95"),
        ("rmsprop", "alpha=0.95"),
        ("torch.optim.Adadelta", "rho=0.95"),
        ("torch.optim.ASGD", None),
        ("sgd", None),
    ],
)
def test_average_of_squares_is_searched_on_request(method, argument):
    made = entry(method, "digits")
    space = search_space(made, ["beta2"])
    assert space == ({} if argument is None else {"1-beta2": Dimension(1e-4, 0.1, log=True)})
    if argument is not None:
        assert argument in apply(made, {"1-beta2": 0.05}).call(8)


def test_torch_classes_have_the_range_of_the_method_with_the_same_update():
    assert search_space(entry("torch.optim.AdamW", "digits")) == search_space(entry("adamw", "digits"))


def test_own_search_space_replaces_the_table(file):
    made = entry(f"{file}:Half", "toy")
    assert search_space(made) == {
        "lr": Dimension(1e-4, 1.0, log=True),
        "momentum": Dimension(0.0, 0.99),
        "warmup": Dimension(0.0, 0.2),
    }
    assert list(search_space(made, ["momentum"])) == ["momentum"]
    assert "warmup" not in search_space(entry(f"{file}:Half", "toy", schedule="step"))
    assert apply(made, {"lr": 0.1, "momentum": 0.5}).call(8) == "own.Half(model.parameters(), lr=0.1, momentum=0.5)"


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("3", r"SEARCH_SPACE of own.py:Own must be a mapping .* got 3"),
        ("{'speed': (0, 1)}", r"Unknown argument in SEARCH_SPACE of own.py:Own: 'speed'"),
        ("{'lr': (1,)}", r"own.py:Own: lr must be \(low, high\)"),
        ("{'lr': (1, 2, 'cubic')}", r"own.py:Own: lr must be \(low, high\)"),
        ("{'lr': (2, 1)}", r"own.py:Own: lr: low and high must be finite with low < high, got 2.0, 1.0"),
        ("{'lr': (0, 1, 'log')}", r"own.py:Own: lr: low must be positive on a logarithmic scale"),
        ("{'decay': (1e-4, 1, 'log')}", r"decay is 0 without tuning, which a logarithmic range cannot contain"),
        ("{'steps': (1, 5)}", r"steps is an integer argument"),
        ("{'flag': (0, 1)}", r"flag must be a number without tuning, got True"),
        ("{'betas[2]': (0, 1)}", r"betas\[2\] must be a number without tuning, got None"),
    ],
)
def test_invalid_search_space_is_rejected(tmp_path, monkeypatch, space, message):
    monkeypatch.chdir(tmp_path)
    arguments = "params, lr=0.1, betas=(0.9, 0.99), decay=0, steps: int = 5, flag=True"
    (tmp_path / "own.py").write_text(f"def Own({arguments}):\n    pass\n\nSEARCH_SPACE = {space}\n")
    with pytest.raises(ArgumentError, match=message):
        entry("own.py:Own", "toy")


# ---- combined optimizers --------------------------------------------------------------------------------------------


def test_muon_updates_hidden_matrices_and_adamw_the_rest():
    torch.manual_seed(0)
    net, expected = model(), model()
    expected.load_state_dict(net.state_dict())
    made = entry("torch.optim.Muon", "digits", lr=0.02, options={"adamw_lr": 0.01, "adamw_weight_decay": 0.1})
    optimizer = made.optimizer_of(net, 10)
    matrix = nn.Parameter(expected[0].weight.detach().flatten(1).clone())
    muon = torch.optim.Muon([matrix, expected[2].weight], lr=0.02)
    rest = [expected[0].bias, expected[2].bias, *expected[3].parameters()]
    adamw = torch.optim.AdamW(rest, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        for current in (net, expected):
            current.zero_grad()
            loss(current).backward()
        assert expected[0].weight.grad is not None
        matrix.grad = expected[0].weight.grad.flatten(1)
        for one in (optimizer, muon, adamw):
            one.step()
        expected[0].weight.data.copy_(matrix.data.view(4, 1, 3, 3))
    assert all(map(torch.equal, net.parameters(), expected.parameters()))
    assert net[0].weight.grad is not None
    assert net[0].weight.grad.shape == net[0].weight.shape
    assert describe(optimizer)["recipe"].endswith("on 4 other tensors: 0.bias, 2.bias, 3.weight, 3.bias")


def test_muon_excludes_embeddings_and_rejects_models_without_hidden_matrices():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    optimizer = MuonWithAdamW(net.parameters(), model=net)
    assert optimizer.parts[0].param_groups[0]["params"] == [net[1].weight]
    with pytest.raises(ArgumentError, match="the model has no hidden matrix"):
        MuonWithAdamW(net[2].parameters(), model=net[2])


def test_combined_optimizer_resumes_from_its_state():
    torch.manual_seed(0)
    nets = [model(), model()]
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (MuonWithAdamW(net.parameters(), lr=0.02, model=net) for net in nets)

    def step(number):
        nets[number].zero_grad()
        loss(nets[number]).backward()
        (first, second)[number].step()

    step(0)
    step(0)
    nets[1].load_state_dict(nets[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    first.param_groups[0]["lr"] = second.param_groups[0]["lr"] = 0.05
    step(0)
    step(1)
    assert all(map(torch.equal, nets[0].parameters(), nets[1].parameters()))


@pytest.mark.parametrize(("parts", "message"), [((), "one or more torch optimizers"), ((0, 0), "in common")])
def test_combined_optimizer_rejects_invalid_parts(parts, message):
    made = [torch.optim.SGD([torch.zeros(1)], 0.1)]
    with pytest.raises(ArgumentError, match=message):
        CombinedOptimizer([made[part] for part in parts])
