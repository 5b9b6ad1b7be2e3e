"""`insert_after(where="mlp")` finds feed-forward blocks by their structure, and acts on what their second linear layer reads."""

import copy
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from surgery_models import keys
from torch import nn

import sparseout
from sparseout import regularizers, surgery


class Functional(nn.Module):
    """A block whose activation is a function."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Attention(nn.Module):
    """Projections that are wider than the model, as in some transformers."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.o(F.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x))


class Gated(nn.Module):
    """`down(silu(gate(x)) * up(x))`, registered in the order of Meta's Llama."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.w3 = nn.Linear(4, 8), nn.Linear(8, 4), nn.Linear(4, 8)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.w2(self.act(self.w1(x)) * self.w3(x))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Parameter(torch.zeros(2, 8, 4)), nn.Parameter(torch.zeros(2, 4, 8))


class Adapted(nn.Linear):
    def __init__(self):
        super().__init__(8, 4)
        self.base = nn.Linear(8, 4)


def insert(model, factory=lambda reader: regularizers.KWinners(2), **options):
    return sparseout.insert_after(model, where="mlp", factory=factory, **options)


def test_the_input_of_the_second_linear_layer_is_what_the_layer_acts_on():
    torch.manual_seed(0)
    model, x = Gated(), torch.randn(5, 4)
    report = insert(model)
    assert [(change.name, change.old, change.new) for change in report.changes] == [
        ("w2", report.model.w2, report.model.w2.sparseout)
    ]
    hidden = F.silu(model.w1(x)) * model.w3(x)
    expected = model.w2(regularizers.k_winners(hidden, 2))
    assert not torch.equal(expected, model(x))
    for changed in (report.model, copy.deepcopy(report.model), pickle.loads(pickle.dumps(report.model))):
        assert torch.equal(changed(x), expected)
        assert torch.equal(changed.eval()(x), expected)
        assert isinstance(changed.w2, nn.Linear)
        assert keys(changed) == keys(model)
        restored = sparseout.restore(changed)
        assert type(restored.w2) is nn.Linear
        assert torch.equal(restored(x), model(x))
        assert list(dict(restored.named_modules())) == list(dict(model.named_modules()))


def test_the_report_says_what_was_chosen_and_why_and_what_was_left_out():
    mixer = nn.Sequential(nn.Linear(4, 8), nn.Conv1d(8, 8, 3), nn.SiLU(), nn.Linear(8, 4))
    own_forward = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    own_forward[2].forward = own_forward[2].forward
    wrapped = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Adapted())
    model = nn.ModuleList([Functional(), Attention(), Gated(), mixer, Experts(), own_forward, wrapped])
    report = insert(model)
    assert {name: reason for name, reason in report.chosen if name != "6.2"} == {
        "0.down": "gelu of up (4 -> 8 -> 4)",
        "2.w2": "SiLU of w1 (4 -> 8 -> 4)",
    }
    assert dict(report.unreachable) == {
        "1.o": "reads q and k and v (4 -> 8 -> 4), but Attention has no activation function that is known: it may be attention",
        "3.3": "reads 0 (4 -> 8 -> 4), but Sequential has a convolution: it may be another kind of block",
        "4": "Experts holds its weights itself, without linear layers",
        "5.2": "reads 0 (4 -> 8 -> 4), but this Linear has a forward of its own",
        "6.2.base": "reads 0 (4 -> 8 -> 4), but Adapted wraps this layer: change the model before",
    }
    first = "  0.down: KWinners(k=2) + Linear(in_features=8, out_features=4, bias=True), which reads gelu of up (4 -> 8 -> 4)"
    assert first in repr(report).splitlines()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8)),  # narrows, as an adapter or an autoencoder
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),  # does not lead back
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
        nn.ReLU(),
    ],
)
def test_other_pairs_of_linear_layers_are_no_feed_forward_blocks(model):
    with pytest.warns(UserWarning, match="the model is unchanged, because the model has no feed-forward block"):
        assert insert(model).changes == ()


def test_a_second_insertion_says_that_the_layers_are_there():
    model = insert(Gated()).model
    with pytest.warns(UserWarning, match="every feed-forward block in the model already has a layer"):
        insert(model)


def test_kind_and_the_role_exclude_each_other():
    with pytest.raises(TypeError, match='kind must be None with where="mlp"'):
        sparseout.insert_after(Gated(), nn.SiLU, where="mlp", q=1.0, p=0.1)
    with pytest.raises(TypeError, match="kind must be a module class or a tuple of module classes, got None"):
        sparseout.insert_after(Gated(), where="w*", q=1.0, p=0.1)


def test_the_factory_gets_the_reader_and_a_copy_has_the_reader_of_the_copy():
    model = Gated()
    report = insert(model, lambda reader: regularizers.L1(0.1, reader=reader))
    (layer,) = (change.new for change in report.changes)
    assert layer._reader == (report.model.w2,)
    again = pickle.loads(pickle.dumps(report.model))
    assert again.w2.sparseout._reader == (again.w2,)
    sparseout.penalty(again)
    again(torch.randn(3, 4))
    sparseout.penalty(again).backward()
    assert again.w2.weight.grad.abs().sum() > 0


def test_a_record_of_the_report_can_be_applied_to_a_fresh_model():
    report = sparseout.insert_after(Gated(), where="mlp", q=1.5, p=0.3)
    record = json.loads(json.dumps(report.to_dict()))
    assert record["action"] == "insert_before"
    for source in (report, record):
        applied = surgery.apply_report(Gated(), source)
        assert repr(applied.model) == repr(report.model)
        assert isinstance(applied.model.w2, surgery.edit.WithSparseoutBefore)


@pytest.mark.parametrize(("activation", "before"), [("relu", True), (nn.GELU(), True), (nn.GELU(), False)])
def test_the_fused_evaluation_of_torchs_encoder_does_not_skip_the_layer(activation, before):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=activation, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), torch.randn(3, 5, 4)
    if before:
        changed = insert(model).model
    else:
        changed = sparseout.insert_after(model, nn.GELU, lambda activation: regularizers.KWinners(2)).model
    expected = changed(x)  # with gradients, nothing is fused
    with torch.no_grad():
        torch.testing.assert_close(changed(x), expected.detach())
        assert not torch.allclose(model(x), expected)
    assert torch.allclose(sparseout.restore(changed)(x), model(x))


def test_a_compiled_model_calls_the_layer():
    torch.manual_seed(0)
    model, x = insert(Gated()).model, torch.randn(5, 4)
    assert torch.allclose(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))
