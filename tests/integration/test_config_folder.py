"""A folder of `transformers` carries the settings of the layers in its `config.json`."""

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

import sparseout
from sparseout import regularizers

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 32}
TOKENS = torch.arange(32).reshape(4, 8)


def layers(scale=1.0):
    torch.manual_seed(0)
    model = sparseout.swap_dropout(BertForMaskedLM(BertConfig(**SIZE, hidden_act="relu")), q=1.5, scale=scale).model
    model = sparseout.insert_after(model, nn.ReLU, lambda activation: regularizers.KWinners(0.25)).model
    model.bert.encoder.layer[0].output.dropout.q = 1.25
    return model


def logits(model, mode):
    torch.manual_seed(1)
    with torch.no_grad():
        return model.train(mode)(input_ids=TOKENS).logits


@pytest.mark.parametrize("kind", [BertForMaskedLM, AutoModelForMaskedLM])
def test_one_call_after_from_pretrained_restores_the_layers(tmp_path, kind):
    model = layers()
    model.config.sparseout = sparseout.config(model)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["sparseout"] == model.config.sparseout
    loaded = kind.from_pretrained(tmp_path)
    assert not torch.equal(logits(loaded, True), logits(model, True))
    assert sparseout.apply_config(loaded, loaded.config.sparseout) is loaded
    assert sparseout.config(loaded) == model.config.sparseout
    for mode in (False, True):
        assert torch.equal(logits(loaded, mode), logits(model, mode))


class SparseBert(BertForMaskedLM):
    def __init__(self, config):
        super().__init__(config)
        sparseout.apply_config(self, config.sparseout)


def test_a_model_that_applies_its_config_loads_the_tensors_of_the_layers(tmp_path):
    model = layers(scale="rms").train()
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    model.config.sparseout = sparseout.config(model)
    model.save_pretrained(tmp_path)
    loaded = SparseBert.from_pretrained(tmp_path)
    scales = {name: value for name, value in loaded.state_dict().items() if "running_rms" in name}
    assert len(scales) > 4
    for name, value in scales.items():
        assert torch.equal(value, model.state_dict()[name])
    assert torch.equal(logits(loaded, True), logits(model, True))
