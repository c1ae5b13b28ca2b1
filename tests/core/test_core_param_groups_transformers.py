"""`param_groups` on small models of the transformers library, compared with explicit lists."""

import logging

import pytest

import dashpot as dp

pytestmark = pytest.mark.slow  # importing the models takes seconds

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TOKENS = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}

CONFIGURATIONS = {
    "GPT2LMHeadModel": lambda library: library.GPT2Config(n_positions=8, n_embd=8, n_layer=1, n_head=2, **TOKENS),
    "LlamaForCausalLM": lambda library: library.LlamaConfig(**SMALL, **TOKENS),
    "T5ForConditionalGeneration": lambda library: library.T5Config(
        d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, **TOKENS
    ),
    "BertForMaskedLM": lambda library: library.BertConfig(max_position_embeddings=8, **SMALL, **TOKENS),
    "ViTForImageClassification": lambda library: library.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SMALL),
}

# The names of parameters with decay, and the name endings of all other parameters.
EMBEDDED = {
    "GPT2LMHeadModel": ["transformer.wte.weight", "transformer.wpe.weight"],
    "LlamaForCausalLM": ["model.embed_tokens.weight"],
    "T5ForConditionalGeneration": [
        "shared.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ],
    "BertForMaskedLM": [f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")],
    "ViTForImageClassification": ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings"],
}
MATRICES = {
    "GPT2LMHeadModel": [
        f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ],
    "LlamaForCausalLM": [
        *(f"model.layers.0.self_attn.{name}_proj.weight" for name in "qkvo"),
        *(f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
        "lm_head.weight",
    ],
    "T5ForConditionalGeneration": [
        *(f"encoder.block.0.layer.0.SelfAttention.{name}.weight" for name in "qkvo"),
        *(f"encoder.block.0.layer.1.DenseReluDense.{name}.weight" for name in ("wi", "wo")),
        *(f"decoder.block.0.layer.0.SelfAttention.{name}.weight" for name in "qkvo"),
        *(f"decoder.block.0.layer.1.EncDecAttention.{name}.weight" for name in "qkvo"),
        *(f"decoder.block.0.layer.2.DenseReluDense.{name}.weight" for name in ("wi", "wo")),
    ],
    "BertForMaskedLM": [
        *(f"bert.encoder.layer.0.attention.self.{name}.weight" for name in ("query", "key", "value")),
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.0.intermediate.dense.weight",
        "bert.encoder.layer.0.output.dense.weight",
        "cls.predictions.transform.dense.weight",
    ],
    "ViTForImageClassification": [
        "vit.embeddings.patch_embeddings.projection.weight",
        *(f"vit.layers.0.attention.{name}_proj.weight" for name in "qkvo"),
        "vit.layers.0.mlp.fc1.weight",
        "vit.layers.0.mlp.fc2.weight",
        "classifier.weight",
    ],
}
NORMS = ("ln_1", "ln_2", "ln_f", "norm", "layernorm", "LayerNorm", "layer_norm", "layernorm_before", "layernorm_after")


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_transformer_parameters_are_classified(name):
    logging.getLogger("transformers").setLevel(logging.ERROR)
    library = pytest.importorskip("transformers", reason="the models are those of transformers")
    model = getattr(library, name)(CONFIGURATIONS[name](library))
    rows = {row.name: row for row in dp.param_groups(model, 0.1, allow_tied=True).rows}
    assert set(rows) == {name for name, _ in model.named_parameters()}
    assert {name for name, row in rows.items() if row.decays} == {*EMBEDDED[name], *MATRICES[name]}
    spared = dp.param_groups(model, 0.1, allow_tied=True, decay_embeddings=False)
    assert {row.name for row in spared.rows if row.decays} == set(MATRICES[name])
    for row in rows.values():
        if not row.decays:
            is_norm = row.name.split(".")[-2].endswith(NORMS)
            assert len(row.shape) == 1
            assert "Norm" in row.reason if is_norm else row.reason.startswith("bias")
