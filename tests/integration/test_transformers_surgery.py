"""Surgery on Hugging Face models: a swap finds the dropout that `check_swap` finds, and feed-forward blocks are found."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MixtralConfig,
    MixtralModel,
    OPTConfig,
    OPTModel,
    Phi3Config,
    Phi3Model,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

import sparseout

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SMALL, "vocab_size": 32, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
IMAGE = {**SMALL, "image_size": 8, "patch_size": 4, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.2}
MODELS = {
    "bert": (BertModel, BertConfig(**TEXT)),
    "distilbert": (DistilBertModel, DistilBertConfig(vocab_size=32, dim=16, n_layers=2, n_heads=2, hidden_dim=32)),
    "gpt2": (GPT2Model, GPT2Config(**GPT2)),
    "llama": (LlamaModel, LlamaConfig(**TEXT, attention_dropout=0.1)),
    "t5": (T5ForConditionalGeneration, T5Config(**T5)),
    "vit": (ViTModel, ViTConfig(**IMAGE)),
}
UNCALLED = {
    "bert": "BertSelfAttention never calls it, and reads its p for functional dropout",
    "distilbert": "DistilBertSelfAttention never calls it, and reads its p for functional dropout",
    "gpt2": "GPT2Attention calls it in some settings, and in others reads its p for functional dropout",
}
FUNCTIONAL = {
    "llama": "LlamaAttention passes its attention_dropout=0.1 to attention_interface",
    "t5": "T5Attention passes its dropout=0.1 to attention_interface",
    "vit": "ViTAttention passes its attention_dropout=0.2 to attention_interface",
}


def example(name):
    tokens = torch.arange(3, 19).reshape(2, 8)
    if name == "vit":
        return {"pixel_values": torch.ones(2, 3, 8, 8)}
    return {"input_ids": tokens, "labels": tokens} if name == "t5" else {"input_ids": tokens}


@pytest.mark.filterwarnings("ignore:the model is unchanged:UserWarning")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_a_swap_lists_the_layers_that_never_run_in_the_check(name, attention):
    kind, config = MODELS[name]
    report = sparseout.swap_dropout(kind._from_config(config, attn_implementation=attention), 1.5)
    checked = sparseout.check_swap(report.model, example(name))
    assert sorted(name for name, _ in report.uncalled) == sorted(checked.never_ran)
    assert {reason for _, reason in report.uncalled} == ({UNCALLED[name]} if name in UNCALLED else set())
    assert {reason for _, reason in report.unreachable} == ({FUNCTIONAL[name]} if name in FUNCTIONAL else set())
    holders = {name.rpartition(".")[0] for name, _ in report.uncalled}
    assert holders | {name for name, _ in report.unreachable} == {call.name for call in checked.dropout}
    text = str(report)
    for layer, reason in (*report.uncalled, *report.unreachable):
        assert f"  {layer}: {reason}" in text.splitlines()
        assert f"  {layer}: Dropout" not in text


def test_the_closest_activation_of_a_llama_is_named():
    kind, config = MODELS["llama"]
    message = r"the model has no nn.SiLU; closest: SiLUActivation \(transformers.activations\), e.g. layers.0.mlp.act_fn$"
    with pytest.warns(UserWarning, match=message):
        sparseout.insert_after(kind(config), nn.SiLU, q=1.5, p=0.1)


BLOCKS = {
    "bert": ("encoder.layer.{}.output.dense", "GELUActivation of intermediate.dense (16 -> 32 -> 16)"),
    "distilbert": ("transformer.layer.{}.ffn.lin2", "GELUActivation of lin1 (16 -> 32 -> 16)"),
    "gpt2": ("h.{}.mlp.c_proj", "NewGELUActivation of c_fc (16 -> 64 -> 16)"),
    "llama": ("layers.{}.mlp.down_proj", "SiLUActivation of gate_proj and up_proj (16 -> 32 -> 16)"),
    "opt": ("decoder.layers.{}.fc2", "ReLU of fc1 (16 -> 32 -> 16)"),
    "phi3": ("layers.{}.mlp.down_proj", "SiLUActivation of gate_up_proj (16 -> 32 -> 16)"),
    "t5": ("{}.block.{}.layer.{}.DenseReluDense.wo", "ReLU of wi (16 -> 32 -> 16)"),
    "vit": ("layers.{}.mlp.fc2", "GELUActivation of fc1 (16 -> 32 -> 16)"),
}
OPT = OPTConfig(vocab_size=32, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16)
MORE = {**MODELS, "opt": (OPTModel, OPT), "phi3": (Phi3Model, Phi3Config(**TEXT))}


def hidden_units(model, names, name):
    """Return what each linear layer of `names` reads in a forward pass."""
    found = {}
    hooks = [
        model.get_submodule(each).register_forward_pre_hook(lambda _, args, each=each: found.update({each: args[0].detach()}))
        for each in names
    ]
    with torch.no_grad():
        model(**example(name))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_every_feed_forward_block_of_a_transformer_is_found_and_nothing_else(name):
    kind, config = MORE[name]
    torch.manual_seed(0)
    model = kind(config).eval()
    report = sparseout.insert_after(model, where="mlp", factory=lambda reader: sparseout.regularizers.KWinners(4))
    pattern, reason = BLOCKS[name]
    places = [(0,), (1,)]
    if name == "t5":
        places = [(part, i, layer) for part, layer in (("encoder", 1), ("decoder", 2)) for i in range(2)]
    names = [pattern.format(*place) for place in places]
    assert report.chosen == tuple((each, reason) for each in names)
    assert [change.name for change in report.changes] == names
    assert report.unreachable == ()
    assert report.model.state_dict().keys() == model.state_dict().keys()
    before = hidden_units(model, names, name)
    after = hidden_units(report.model, [f"{each}.sparseout" for each in names], name)
    assert torch.equal(after[f"{names[0]}.sparseout"], before[names[0]])
    assert len(after) == len(names)
    with torch.no_grad():
        expected, changed = model(**example(name))[0], report.model(**example(name))[0]
        assert not torch.allclose(changed, expected)
        assert torch.equal(sparseout.restore(report.model)(**example(name))[0], expected)


def test_wide_attention_is_left_out_and_experts_without_linear_layers_are_named():
    wide = T5Config(**{**T5, "d_kv": 16})
    report = sparseout.insert_after(T5ForConditionalGeneration(wide), where="mlp", q=1.5, p=0.1)
    assert len(report.changes) == 4
    assert {reason for _, reason in report.unreachable} == {
        "reads q and k and v (16 -> 32 -> 16), but T5Attention has no activation function that is known: it may be attention"
    }
    mixtral = MixtralModel(MixtralConfig(**TEXT, num_local_experts=2))
    with pytest.warns(UserWarning, match="MixtralExperts holds its weights itself, without linear layers"):
        report = sparseout.insert_after(mixtral, where="mlp", q=1.5, p=0.1)
    assert [name for name, _ in report.unreachable] == ["layers.0.mlp.experts", "layers.1.mlp.experts"]
