"""Roles assigned by `param_groups`: norms, parametrized tensors, vectors and overrides."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization

import dashpot as dp


def reasons(model, **options):
    """Return a dict from parameter names to (decays, reason)."""
    return {row.name: (row.decays, row.reason) for row in dp.param_groups(model, 0.1, **options).rows}


def decaying(model, **options):
    return [name for name, (decays, _) in reasons(model, **options).items() if decays]


def module(kind, shapes, **attributes):
    """Return an instance of a new class named `kind` with parameters of the given shapes."""
    made = type(kind, (nn.Module,), {})()
    for name, shape in shapes.items():
        made.register_parameter(name, nn.Parameter(torch.ones(shape)))
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


class Shifted(nn.Module):
    """A parametrization with parameters."""

    def __init__(self, *shape):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(shape))
        self.mix = nn.Linear(shape[-1], shape[-1])

    def forward(self, x):
        return self.mix(x) + self.shift


# ---- norms -----------------------------------------------------------------------------------------------------------

NORMS = {
    "LlamaRMSNorm": {"weight": 8},
    "T5LayerNorm": {"weight": 8},
    "RMSNormGated": {"gamma": 8},
    "ChannelNorm2d": {"weight": (1, 8, 1, 1), "bias": (1, 8, 1, 1)},
    "InstanceNormalization": {"scale": 8, "offset": 8},
    "Normalize": {"g": 8},
    "FusedLN": {"w": 8, "b": 8},
    "ConvNextV2GRN": {"weight": (1, 1, 1, 8), "bias": (1, 1, 1, 8)},
}


@pytest.mark.parametrize("kind", NORMS)
def test_norm_is_recognized_by_class_name(kind):
    model = nn.Sequential(nn.Linear(2, 2), module(kind, NORMS[kind]))
    assert decaying(model) == ["0.weight"]
    assert reasons(model)[f"1.{next(iter(NORMS[kind]))}"] == (False, f"{kind}: norm by class name")
    assert decaying(model, decay_norms=True) == ["0.weight", *[f"1.{name}" for name in NORMS[kind]]]


@pytest.mark.parametrize(
    "place", ["norm", "norm1", "ln_f", "ln1", "q_norm", "post_attention_layernorm", "LayerNorm", "bn"]
)
def test_norm_is_recognized_by_attribute(place):
    model = nn.ModuleDict({"fc": nn.Linear(2, 2), place: module("Affine", {"weight": 2, "bias": 2})})
    assert decaying(model) == ["fc.weight"]
    assert reasons(model)[f"{place}.weight"][1] == "Affine: norm by name"


def test_norm_is_recognized_by_its_epsilon():
    model = nn.Sequential(nn.Linear(2, 2), module("Affine", {"weight": 2}, variance_epsilon=1e-6))
    assert reasons(model)["1.weight"] == (False, "Affine: norm by its eps")


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [("NormalizedProjection", {"weight": (2, 3)}), ("LogNormal", {"table": (2, 3)}), ("PlainNet", {"weight": (1, 3)})],
)
def test_module_with_a_matrix_is_not_a_norm(kind, shapes):
    assert decaying(nn.ModuleDict({"norm": module(kind, shapes)})) == [f"norm.{name}" for name in shapes]


def test_torch_layer_named_norm_is_not_a_norm():
    model = nn.ModuleDict({"norm": nn.Linear(3, 1), "ln_f": nn.Conv1d(1, 1, 1)})
    assert decaying(model) == ["norm.weight", "ln_f.weight"]


def test_matrix_in_a_class_named_norm_decays_with_a_warning():
    model = nn.Sequential(module("HeadwiseLayerNorm", {"weight": (4, 8)}))
    with pytest.warns(UserWarning, match=r"'0.weight' of HeadwiseLayerNorm \(in a class named like a norm, but not"):
        assert decaying(model) == ["0.weight"]
    assert decaying(model, overrides={"*.weight": False}) == []
    assert decaying(model, norms=(type(model[0]),)) == []


# ---- parametrized tensors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(3), lambda: module("LlamaRMSNorm", {"weight": 3, "bias": 3})])
@pytest.mark.parametrize("attribute", ["weight", "bias"])
def test_parametrized_norm_is_a_norm(norm, attribute):
    model = nn.Sequential(nn.Linear(3, 3), norm())
    register_parametrization(model[1], attribute, Shifted(3))
    assert decaying(model) == ["0.weight"]
    decays, why = reasons(model)[f"1.parametrizations.{attribute}.original"]
    assert (decays, why.endswith(", parametrized")) == (False, True)


@pytest.mark.parametrize(
    "parametrize",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
@pytest.mark.parametrize("layer", [lambda: nn.Linear(3, 3), lambda: nn.Conv1d(3, 3, 1)])
def test_parametrized_weight_decays_and_its_bias_does_not(parametrize, layer):
    model = parametrize(layer())
    kind = type(layer()).__name__
    originals = [name for name, _ in model.named_parameters() if name.startswith("parametrizations.weight.original")]
    assert reasons(model) == {"bias": (False, "bias")} | dict.fromkeys(originals, (True, f"{kind}, parametrized"))


@pytest.mark.parametrize(
    "parametrize", [parametrizations.weight_norm, lambda m, name: register_parametrization(m, name, Shifted(3))]
)
def test_parametrized_bias_is_a_bias(parametrize):
    model = nn.Linear(3, 3)
    parametrize(model, "bias")
    found = reasons(model)
    assert found.pop("weight") == (True, "Linear")
    assert set(found.values()) == {(False, "bias, parametrized")}
    assert set(decaying(model, decay_biases=True)) == {"weight", *found}


def test_parameters_of_a_weight_parametrization_are_classified_separately():
    model = nn.Linear(3, 3)
    register_parametrization(model, "weight", Shifted(3, 3))
    assert decaying(model) == [
        "parametrizations.weight.original",
        "parametrizations.weight.0.shift",
        "parametrizations.weight.0.mix.weight",
    ]


def test_legacy_weight_norm_keeps_the_roles():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.utils.weight_norm(nn.Linear(3, 3))
    assert decaying(model) == ["weight_g", "weight_v"]


def test_container_entries_belong_to_the_containing_module():
    model = module("Mixture", {})
    model.biases = nn.ParameterList([torch.zeros(2), torch.zeros(2)])
    model.tables = nn.ParameterDict({"a": torch.ones(2, 2), "bias": torch.ones(2, 2)})
    assert decaying(model) == ["tables.a", "tables.bias"]
    norm = module("DomainNorm", {})
    norm.scales = nn.ParameterList([torch.ones(2), torch.ones(2)])
    assert decaying(nn.Sequential(nn.Linear(1, 1), norm)) == ["0.weight"]


# ---- other vectors, embeddings, lazy parameters ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [("LayerScale", "lambda1"), ("Block", "layer_scale_1"), ("Clip", "logit_scale"), ("A", "gain")],
)
def test_scales_do_not_decay(kind, attribute):
    assert reasons(module(kind, {attribute: 4})) == {attribute: (False, f"{kind}: vector")}


@pytest.mark.parametrize("shape", [(), (8,), (1, 1, 8), (1, 8, 1), (8, 1, 1)])
def test_broadcast_scale_does_not_decay(shape):
    assert decaying(module("Snake", {"alpha": shape})) == []


def test_module_with_only_a_bias_is_not_a_norm():
    model = module("RobertaPreLayerNormLMHead", {"bias": 8})
    assert reasons(model) == {"bias": (False, "bias")}
    assert decaying(model, decay_biases=True) == ["bias"]


def test_prelu_does_not_decay():
    assert decaying(nn.Sequential(nn.Linear(2, 2), nn.PReLU(2))) == ["0.weight"]


def test_vector_of_unknown_role_warns():
    model = nn.Sequential(*[module("Gate", {"w": 3, "v": (3, 3)}) for _ in range(4)])
    with pytest.warns(
        UserWarning, match=r"'0.w' and 3 more of Gate \(a vector, not decayed\); set decay with overrides={'0"
    ) as seen:
        assert decaying(model) == [f"{i}.v" for i in range(4)]
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert decaying(model, overrides={"*.w": True}) == [name for name, _ in model.named_parameters()]


def test_warning_names_at_most_five_kinds():
    model = nn.ModuleList([module(f"Kind{i}", {"w": 2}) for i in range(8)])
    with pytest.warns(UserWarning, match=r", 3 other kinds; set decay"):
        dp.param_groups(model, 0.1)


@pytest.mark.parametrize(
    "attribute", ["cls_token", "mask_token", "register_tokens", "pos_embed", "position_embeddings"]
)
def test_tokens_and_position_tables_are_embeddings(attribute):
    model = module("VisionTransformer", {attribute: (1, 1, 4)})
    assert reasons(model) == {attribute: (True, "VisionTransformer: embedding by name")}
    assert decaying(model, decay_embeddings=False) == []


def test_bias_table_is_a_bias():
    assert reasons(module("WindowAttention", {"relative_position_bias_table": (9, 2)})) == {
        "relative_position_bias_table": (False, "bias")
    }


def test_no_weight_decay_attribute_is_respected():
    model = module("Mamba", {"A_log": (2, 2), "x_proj": (2, 2)})
    model.A_log._no_weight_decay = True
    assert reasons(model)["A_log"] == (False, "_no_weight_decay")
    assert decaying(model) == ["x_proj"]


def test_lazy_parameters_are_classified_by_class_and_name():
    class LazyOwnNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.UninitializedParameter()

    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyConv2d(1, 1), LazyOwnNorm(), nn.Linear(2, 2))
    groups = dp.param_groups(model, 0.1)
    assert [row.name for row in groups.rows if row.decays] == ["0.weight", "2.weight", "4.weight"]
    lines = str(groups).splitlines()
    assert lines[1].split() == ["0.weight", "uninitialized", "yes", "LazyLinear"]
    assert lines[-2:] == [
        "weight_decay=0.1: 3 tensors, 4 elements, 2 uninitialized",
        "weight_decay=0.0: 6 tensors, 2 elements, 5 uninitialized",
    ]


# ---- overrides -------------------------------------------------------------------------------------------------------


def test_first_matching_override_decides():
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert reasons(model, overrides={"1.b*": True, nn.LayerNorm: False, "*.weight": False}) == {
        "0.weight": (False, "overrides['*.weight']"),
        "0.bias": (False, "bias"),
        "1.weight": (False, "overrides[LayerNorm]"),
        "1.bias": (True, "overrides['1.b*']"),
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"*.wieght": True}, r"overrides\['\*.wieght'\] must match a parameter, got none"),
        ({nn.LSTM: True}, r"overrides\[LSTM\] must match a parameter, got none"),
        ({"weight": 0}, r"overrides\['weight'\] must be True or False, got 0"),
        ({int: True}, r"overrides must have names or module classes as keys, got <class 'int'>"),
    ],
)
def test_invalid_overrides_are_rejected(overrides, message):
    with pytest.raises(dp.ArgumentError, match=f"^param_groups: {message}"):
        dp.param_groups(nn.Linear(2, 2), 0.1, overrides=overrides)
