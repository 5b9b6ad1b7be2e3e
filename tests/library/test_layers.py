"""The layers equal the function with their settings."""

import copy
import io
import math
import pickle
import re

import pytest
import torch
from small import seeded
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d

# A layer, the shape of a batch, the shape of one sample (or None), and the dimensions of the batch that share a draw.
KINDS = [
    (Sparseout, {}, (4, 3), (3,), ()),
    (Sparseout1d, {}, (4, 3, 5), (3, 5), (2,)),
    (Sparseout2d, {}, (4, 3, 5, 6), (3, 5, 6), (2, 3)),
    (Sparseout3d, {}, (4, 3, 2, 5, 6), (3, 2, 5, 6), (2, 3, 4)),
    (LockedSparseout, {}, (7, 1, 3), None, (0,)),
    (LockedSparseout, {"batch_first": True}, (4, 7, 3), (7, 3), (1,)),
]
KINDS = [pytest.param(*kind, id=f"{kind[0].__name__}{len(kind[1])}") for kind in KINDS]
COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"p": 0.3, "q": 1.0},
        {"gradient": "exact", "eps": 1e-3, "q": 1.5},
        {"shared_dims": (1,), "q": 3.0},
        {"inplace": True},
    ],
)
def test_the_layer_calls_the_function(settings):
    weight = torch.linspace(-2, 2, 12).reshape(4, 3)
    grads = []
    for op in (Sparseout(**settings), lambda x: sparseout.sparseout(x, **settings)):
        x = weight.clone().requires_grad_()
        torch.manual_seed(0)
        y = op(x * 1)
        y.square().sum().backward()
        grads.append((y.detach(), x.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


@pytest.mark.parametrize(("kind", "settings", "shape", "unbatched", "shared"), KINDS)
@pytest.mark.parametrize("q", [1.0, 2.0])
def test_each_layer_shares_the_draws_that_its_name_says(kind, settings, shape, unbatched, shared, q):
    x = torch.randn(shape, generator=seeded(1))
    layer = kind(0.4, q, gradient="exact", eps=1e-3, generator=seeded(), **settings)
    expected = sparseout.sparseout(x, 0.4, q, gradient="exact", eps=1e-3, shared_dims=shared, generator=seeded())
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize(("kind", "settings", "shape", "unbatched", "shared"), KINDS)
def test_one_sample_is_a_batch_of_one(kind, settings, shape, unbatched, shared):
    batch = torch.randn(shape, generator=seeded(1))[:1] if unbatched else torch.randn(shape, generator=seeded(1))
    one = batch[0] if unbatched else batch[:, 0]
    results = [kind(0.5, 1.5, generator=seeded(), **settings)(x) for x in (one, batch)]
    assert torch.equal(results[0], results[1].reshape(one.shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Sparseout1d(), (3,)),
        (Sparseout1d(), (4, 3, 5, 1)),
        (Sparseout2d(), (3,)),
        (Sparseout3d(), ()),
        (LockedSparseout(), (3,)),
        (LockedSparseout(batch_first=True), (4, 3, 5, 1)),
    ],
    ids=str,
)
def test_a_shape_that_pytorch_refuses_is_refused_in_training(layer, shape):
    message = rf"input of {type(layer).__name__} must be \(.*\) or \(.*\), got shape {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        layer(torch.ones(shape))
    with pytest.raises(TypeError, match=r"input must be a torch\.Tensor"):
        layer([1.0])


UNUSUAL = [(Sparseout2d, ndim) for ndim in (2, 5, 6, 7)] + [(Sparseout3d, ndim) for ndim in (1, 2, 3, 6, 7)]


@pytest.mark.parametrize(("kind", "ndim"), UNUSUAL)
def test_an_unusual_shape_is_read_as_by_the_dropout_that_the_layer_replaces(kind, ndim):
    x, layer = torch.ones((9, 8, 3, 2, 3, 2, 2)[:ndim]), kind(0.5)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=rf"input of {kind.__name__} should be .*, got shape \(9") as caught:
        y = layer(x)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="which is deprecated"):
        dropout = getattr(nn, kind.__name__.replace("Sparseout", "Dropout"))(0.5)(x)
    first_shared = 2 if kind is Sparseout2d else 1
    for z in (y, dropout):
        assert [bool((z == z.narrow(dim, 0, 1)).all()) for dim in range(ndim)] == [dim >= first_shared for dim in range(ndim)]


@pytest.mark.parametrize("ndim", range(8))
@pytest.mark.parametrize("layer", [kind.values[0](**kind.values[1]) for kind in KINDS], ids=str)
def test_evaluation_is_the_identity_for_any_shape(layer, ndim):
    x = torch.ones((2,) * ndim)
    assert layer.eval()(x) is x


@pytest.mark.parametrize(("kind", "settings", "shape", "unbatched", "shared"), KINDS)
def test_evaluation_is_the_identity(kind, settings, shape, unbatched, shared):
    x = torch.randn(shape)
    assert kind(**settings).eval()(x) is x


@pytest.mark.parametrize(("kind", "settings", "shape", "unbatched", "shared"), KINDS)
def test_the_state_dict_is_empty(kind, settings, shape, unbatched, shared):
    layer = kind(**settings)
    assert not layer.state_dict()
    assert not list(layer.parameters())
    assert not list(layer.buffers())


def test_a_generator_is_used():
    x = torch.ones(100)
    layer = Sparseout(generator=seeded(1))
    assert torch.equal(layer(x), sparseout.sparseout(x, generator=seeded(1)))


# p and q over time


def test_p_and_q_may_be_set():
    layer = Sparseout(generator=seeded())
    layer.p, layer.q = 0, 1.5
    assert torch.equal(layer(torch.ones(9)), torch.ones(9))
    layer.p = 0.3
    seeded_alike = Sparseout(0.3, 1.5, generator=seeded(1))
    layer.generator = seeded(1)
    x = torch.randn(50)
    assert torch.equal(layer(x), seeded_alike(x))


@pytest.mark.parametrize("name", ["p", "q"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "0.5", None])
def test_bad_values_are_refused_and_change_nothing(name, value):
    layer = Sparseout(0.3, 1.5)
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be .* got {value!r}"):
        setattr(layer, name, value)
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be .* got {value!r}"):
        Sparseout(**{name: value})
    assert (layer.p, layer.q) == (0.3, 1.5)
    assert (layer._p_tensor.item(), layer._q_tensor.item()) == (0.3, 1.5)


@pytest.mark.parametrize("settings", [{"gradient": "no"}, {"eps": 0}])
def test_bad_settings_are_refused_when_the_layer_is_built(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Sparseout(**settings)


def test_a_graph_reads_tensors_that_follow_p_and_q_and_stay_where_they_are(monkeypatch):
    layer = Sparseout(0.5, 2.0)
    seen = []
    monkeypatch.setattr("sparseout.layers.sparseout", lambda input, p, q, *_, **__: seen.append((p, q)))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    layer(torch.ones(1))
    layer.p, layer.q = 0.1, 1.7
    layer.half().to("meta")(torch.ones(1))
    assert seen[0][0] is seen[1][0]
    assert seen[0][1] is seen[1][1]
    for tensor, value in zip(seen[1], (0.1, 1.7), strict=True):
        assert tensor.item() == value
        assert (tensor.dtype, tensor.device.type, tensor.dim()) == (torch.float64, "cpu", 0)


def test_layers_built_anywhere_can_be_set():
    with torch.inference_mode(), torch.device("meta"):
        layer = Sparseout(0.5, 1.5)
        unpickled = pickle.loads(pickle.dumps(layer))
    for built in (layer, unpickled):
        built.p = 0.25
        assert built._p_tensor.item() == 0.25


# Copies


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize(("kind", "settings", "shape", "unbatched", "shared"), KINDS)
def test_a_copy_is_a_layer_of_its_own(how, kind, settings, shape, unbatched, shared):
    layer = kind(0.25, 1.5, gradient="exact", eps=1e-3, **settings).eval()
    copied = COPIES[how](layer)
    assert type(copied) is kind
    assert repr(copied) == repr(layer)
    assert not copied.training
    copied.p, copied.q = 0.75, 3.0
    assert (layer.p, layer.q) == (0.25, 1.5)
    assert (layer._p_tensor.item(), layer._q_tensor.item()) == (0.25, 1.5)
    assert (copied._p_tensor.item(), copied._q_tensor.item()) == (0.75, 3.0)
    layer.p = 0.5
    assert (copied.p, copied._p_tensor.item()) == (0.75, 0.75)


def test_settings_build_the_layer_again():
    for kind, settings, *_ in (param.values for param in KINDS):
        layer = kind(0.25, 1.5, True, gradient="exact", eps=1e-3, **settings)
        assert repr(kind(**layer.settings())) == repr(layer)


@pytest.mark.parametrize(
    ("layer", "shown"),
    [
        (Sparseout(), "Sparseout(p=0.5, q=2)"),
        (Sparseout(0.25, 1.5, True), "Sparseout(p=0.25, q=1.5, inplace=True)"),
        (
            Sparseout(gradient="exact", eps=1e-4, shared_dims=(1,)),
            "Sparseout(p=0.5, q=2, gradient='exact', eps=0.0001, shared_dims=(1,))",
        ),
        (Sparseout2d(q=1, gradient="exact"), "Sparseout2d(p=0.5, q=1, gradient='exact')"),
        (LockedSparseout(), "LockedSparseout(p=0.5, q=2)"),
        (LockedSparseout(batch_first=True, eps=1e-4), "LockedSparseout(p=0.5, q=2, batch_first=True, eps=0.0001)"),
    ],
)
def test_repr_shows_what_is_not_the_default(layer, shown):
    assert repr(layer) == shown


# Export


@pytest.mark.parametrize(("kind", "settings", "shape", "unbatched", "shared"), KINDS)
def test_a_layer_in_evaluation_exports_as_the_identity(kind, settings, shape, unbatched, shared):
    model = torch.nn.Sequential(torch.nn.ReLU(), kind(0.5, 1.5, **settings)).eval()
    exported = torch.export.export(model, (torch.randn(shape),))
    assert [node.target for node in exported.graph.nodes if node.op == "call_function"] == [torch.ops.aten.relu.default]
    saved = io.BytesIO()
    torch.export.save(exported, saved)
    saved.seek(0)
    x = torch.randn(shape)
    assert torch.equal(torch.export.load(saved).module()(x), x.relu())
