"""A running scale with `from_pretrained` of `transformers`, which leaves tensors that a checkpoint lacks uninitialized."""

import pytest
import torch
from transformers import BertConfig, BertModel

import sparseout
from sparseout import Sparseout

CONFIG = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=32)


class SparseBert(BertModel):
    scale = "rms"

    def __init__(self, config):
        super().__init__(config)
        sparseout.swap_dropout(self, q=1.5, scale=self.scale, inplace=True)


class MatchedBert(SparseBert):
    scale = "matched"


KINDS = pytest.mark.parametrize("kind", [SparseBert, MatchedBert])


def step(model):
    torch.manual_seed(0)
    model.train()
    outputs = model(input_ids=torch.arange(32).reshape(4, 8)).last_hidden_state
    outputs.square().mean().backward()
    return [outputs.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None), *scales(model)]


def scales(model):
    return [scale for layer in model.modules() if isinstance(layer, Sparseout) for scale in layer.buffers(recurse=False)]


@pytest.fixture
def uninitialized(monkeypatch):
    make = torch.empty_like

    def poisoned(*arguments, **settings):
        tensor = make(*arguments, **settings)
        return tensor.fill_(6e27) if tensor.is_floating_point() and not tensor.is_meta else tensor

    monkeypatch.setattr(torch, "empty_like", poisoned)


@KINDS
@pytest.mark.usefixtures("uninitialized")
def test_a_checkpoint_without_a_running_scale_leaves_it_unset(tmp_path, kind):
    BertModel(CONFIG).save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path)
    assert all(not scale.any() for scale in scales(loaded))
    expected = kind(CONFIG)
    expected.load_state_dict({name: x for name, x in loaded.state_dict().items() if "running" not in name}, strict=False)
    for ours, fresh in zip(step(loaded), step(expected), strict=True):
        assert torch.equal(ours, fresh)


@KINDS
@pytest.mark.usefixtures("uninitialized")
def test_a_checkpoint_with_a_running_scale_restores_it(tmp_path, kind):
    model = kind(CONFIG)
    step(model)
    model.save_pretrained(tmp_path)
    for ours, before in zip(scales(kind.from_pretrained(tmp_path)), scales(model), strict=True):
        assert torch.equal(ours, before)
    assert any(scale.any() for scale in scales(model))


@pytest.mark.usefixtures("uninitialized")
def test_a_checkpoint_with_a_root_mean_square_alone_leaves_the_moments_unset(tmp_path):
    model = SparseBert(CONFIG)
    step(model)
    model.save_pretrained(tmp_path)
    for layer in MatchedBert.from_pretrained(tmp_path).modules():
        assert not isinstance(layer, Sparseout) or not layer.running_moments.any()
