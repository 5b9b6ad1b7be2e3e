"""On Hugging Face models, a swap finds in the source code the same dropout that `check_swap` finds by running them."""

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
def test_a_swap_lists_apart_what_the_check_sees_never_run(name, attention):
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


def test_a_class_that_a_llama_does_not_have_gets_the_one_that_it_has():
    kind, config = MODELS["llama"]
    message = r"the model has no nn.SiLU; closest: SiLUActivation \(transformers.activations\), e.g. layers.0.mlp.act_fn$"
    with pytest.warns(UserWarning, match=message):
        sparseout.insert_after(kind(config), nn.SiLU, q=1.5, p=0.1)
