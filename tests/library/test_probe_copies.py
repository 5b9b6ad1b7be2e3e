"""A model can be saved, pickled and copied while it is probed. The copy is not measured, and the summary reports it."""

import copy
import io
import pickle

import pytest
import torch
from probed import hooks, inputs, mlp
from torch import nn

import sparseout
from sparseout import Probe, SparsityTarget


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"save": saved, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "deepcopy": copy.deepcopy}


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x, attention_mask=None, **options):
        return self.encoder(x, src_key_padding_mask=attention_mask)


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("build", [mlp, Masked])
def test_a_copy_runs_as_the_model_and_is_not_measured(name, build):
    model = build().eval()
    x = inputs() if build is mlp else torch.randn(3, 5, 6)
    with Probe(model) as probe:
        twin = COPIES[name](model)
        assert torch.equal(twin(x), model(x))
        twin(x)
    assert {record.calls for record in probe.summary().layers} == {1}
    assert hooks(model) == 0
    with Probe(twin) as other:
        twin(x)
    assert {record.calls for record in other.summary().layers} == {1}


def test_the_summary_says_that_a_copy_ran():
    with Probe(model := mlp()) as probe:
        copy.deepcopy(model)(inputs())
    assert probe.summary().unseen[""] == "a copy of the model ran, which is not measured: attach a Probe to the copy"
    assert "(model): a copy of the model ran" in str(probe.summary())


@pytest.mark.parametrize("name", COPIES)
def test_a_model_with_a_target_can_be_copied(name):
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), sparseout.Sparseout(0.5), nn.Linear(16, 4))
    target = SparsityTarget(model, 0.5)
    twin = COPIES[name](model)
    assert twin(inputs()).shape == (5, 4)
    model(inputs())
    target.step()
    target.stop()
    assert hooks(model) == 0


def test_a_state_and_its_loading_know_nothing_of_a_probe():
    with Probe(model := mlp()):
        state = model.state_dict()
        mlp().load_state_dict(state)
    assert state.keys() == mlp().state_dict().keys()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_scripting_names_the_call_that_makes_it_work():
    model = mlp()
    with Probe(model) as probe:
        with pytest.raises(
            AttributeError, match=r"^torch.jit.script cannot compile the hooks of a Probe .* call its stop\(\) before$"
        ):
            torch.jit.script(model)
        probe.stop()
        assert torch.equal(torch.jit.script(model)(inputs()), model(inputs()))
