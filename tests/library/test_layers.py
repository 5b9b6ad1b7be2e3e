"""The layer is the function with its settings kept."""

import pytest
import torch

import sparseout


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
    for op in (sparseout.Sparseout(**settings), lambda x: sparseout.sparseout(x, **settings)):
        x = weight.clone().requires_grad_()
        torch.manual_seed(0)
        y = op(x * 1)
        y.square().sum().backward()
        grads.append((y.detach(), x.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])


def test_evaluation_is_the_identity():
    x = torch.randn(5)
    assert sparseout.Sparseout().eval()(x) is x


def test_a_generator_is_used():
    x = torch.ones(100)
    layer = sparseout.Sparseout(generator=torch.Generator().manual_seed(1))
    assert torch.equal(layer(x), sparseout.sparseout(x, generator=torch.Generator().manual_seed(1)))


def test_p_and_q_may_change_and_are_checked_in_use():
    layer = sparseout.Sparseout()
    layer.p = 0.0
    assert torch.equal(layer(torch.ones(9)), torch.ones(9))
    layer.q = -1.0
    with pytest.raises(ValueError, match="q must be"):
        layer(torch.ones(9))


def test_the_state_dict_is_empty():
    assert not sparseout.Sparseout().state_dict()


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "Sparseout(p=0.5, q=2)"),
        ({"p": 0.25, "q": 1.5, "inplace": True}, "Sparseout(p=0.25, q=1.5, inplace=True)"),
        (
            {"gradient": "exact", "eps": 1e-4, "shared_dims": (1,)},
            "Sparseout(p=0.5, q=2, gradient='exact', eps=0.0001, shared_dims=(1,))",
        ),
    ],
)
def test_repr_shows_what_is_not_the_default(settings, shown):
    assert repr(sparseout.Sparseout(**settings)) == shown


@pytest.mark.parametrize("settings", [{"p": 2}, {"q": -1}, {"gradient": "no"}, {"eps": 0}, {"p": "1"}])
def test_bad_settings_are_refused_when_the_layer_is_built(settings):
    with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
        sparseout.Sparseout(**settings)
