"""`scale="rms"` with `from_pretrained` of `transformers`, which leaves tensors that a checkpoint lacks uninitialized."""

import pytest
import torch
from transformers import BertConfig, BertModel

import sparseout
from sparseout import Sparseout

CONFIG = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=32)


class SparseBert(BertModel):
    def __init__(self, config):
        super().__init__(config)
        sparseout.swap_dropout(self, q=1.5, scale="rms", inplace=True)


def step(model):
    torch.manual_seed(0)
    model.train()
    outputs = model(input_ids=torch.arange(32).reshape(4, 8)).last_hidden_state
    outputs.square().mean().backward()
    return [outputs.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None), *scales(model)]


def scales(model):
    return [layer.running_rms for layer in model.modules() if isinstance(layer, Sparseout)]


@pytest.fixture
def uninitialized(monkeypatch):
    make = torch.empty_like

    def poisoned(*arguments, **settings):
        tensor = make(*arguments, **settings)
        return tensor.fill_(6e27) if tensor.is_floating_point() and not tensor.is_meta else tensor

    monkeypatch.setattr(torch, "empty_like", poisoned)


@pytest.mark.usefixtures("uninitialized")
def test_a_checkpoint_without_a_running_scale_leaves_it_unset(tmp_path):
    BertModel(CONFIG).save_pretrained(tmp_path)
    loaded = SparseBert.from_pretrained(tmp_path)
    assert all(scale == 0 for scale in scales(loaded))
    expected = SparseBert(CONFIG)
    expected.load_state_dict({name: x for name, x in loaded.state_dict().items() if "running_rms" not in name}, strict=False)
    for ours, fresh in zip(step(loaded), step(expected), strict=True):
        assert torch.equal(ours, fresh)


@pytest.mark.usefixtures("uninitialized")
def test_a_checkpoint_with_a_running_scale_restores_it(tmp_path):
    model = SparseBert(CONFIG)
    step(model)
    model.save_pretrained(tmp_path)
    for ours, before in zip(scales(SparseBert.from_pretrained(tmp_path)), scales(model), strict=True):
        assert torch.equal(ours, before)
    assert any(scale > 0 for scale in scales(model))
