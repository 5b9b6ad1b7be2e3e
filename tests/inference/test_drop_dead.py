"""`drop_dead` removes the units that no sample activates, and only if nothing else reads them."""

import copy

import pytest
import torch
from torch import nn

import sparseout

DEAD = (1, 4, 5)


def network(middle=nn.ReLU, dead=DEAD):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), middle(), nn.Dropout(0.5), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].bias.fill_(0.2)
        model[0].bias[list(dead)] = -99.0
    return model


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.net, self.function = network(), function

    def forward(self, x):
        return self.function(self.net, x)


def batches(count=7):
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(16, 6, generator=generator), torch.zeros(16)] for _ in range(count)]


def test_units_that_never_fired_are_removed_from_both_layers():
    model = network()
    before = copy.deepcopy(model.state_dict())
    report = sparseout.drop_dead(model, batches())
    (entry,) = report.dropped
    assert entry == ("0", "3", 8, DEAD, 5 * 16)  # batches 0 and 5 are held out
    small = report.model
    assert (small[0].out_features, small[3].in_features) == (5, 5)
    assert small[0].weight.shape == (5, 6)
    assert small[3].weight.shape == (3, 5)
    x = torch.randn(50, 6)
    assert torch.allclose(small(x), model(x), atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    text = repr(report)
    assert "3 of 8 units not seen to fire in 80 samples" in text
    assert "never" not in text
    assert "on the held-out 2 batches" in text


def test_in_place_keeps_modules_and_parameters():
    model = network()
    layer, weight = model[0], model[0].weight
    report = sparseout.drop_dead(model, batches(2), inplace=True)
    assert report.model is model
    assert model[0] is layer
    assert layer.weight is weight
    assert len(weight) == 5
    model(torch.ones(1, 6)).sum().backward()


def test_a_unit_that_fires_on_held_out_data_shows_in_the_difference():
    model, data = network(dead=()), batches(2)
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = torch.tensor([1.0, 0, 0, 0, 0, 0]), -50.0
    data[0][0][0, 0] = 60.0
    report = sparseout.drop_dead(model, data)
    expected = (model(data[0][0]) - report.model(data[0][0])).abs().max().item()
    assert report.dropped[0].removed == (2,)
    assert report.difference == pytest.approx(expected)
    assert expected > 0.01


def test_a_layer_keeps_one_unit():
    report = sparseout.drop_dead(network(dead=range(8)), batches())
    assert report.model[0].out_features == 1


def test_nothing_is_removed_where_all_units_fire():
    report = sparseout.drop_dead(network(dead=()), batches())
    assert report.dropped == ()
    assert report.difference == 0
    assert "all 8 units before it fired" in dict(report.refused)["3"]


@pytest.mark.parametrize("middle", [nn.GELU, nn.Tanh, lambda: nn.Sequential(nn.ReLU(), nn.LayerNorm(8))])
def test_other_activations_are_refused(middle):
    report = sparseout.drop_dead(network(middle), batches())
    assert report.dropped == ()
    assert "not the ReLU" in dict(report.refused)["3"]


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: (net(x), net[0](x).relu()),
        lambda net, x: net(x) + net[0](x)[:, :3],
        lambda net, x: net(x) + net[0](x).mean(),
        lambda net, x: (lambda hidden: net[3](hidden) + hidden[:, 5:8])(net[0](x).relu()),
        lambda net, x: (lambda hidden: net[3](hidden.relu()) + hidden[:, 5:8])(net[0](x)),
        lambda net, x: (lambda hidden: net[3](hidden) + hidden.mean())(net[0](x).relu()),
        lambda net, x: net(x).softmax(-1) * net[3](net[0](2 * x).relu()),
    ],
)
def test_units_that_something_else_reads_are_kept(function):
    model = Wrapped(function).eval()
    report = sparseout.drop_dead(model, batches())
    assert report.dropped == ()
    reason = dict(report.refused)["net.3"]
    assert "another part of the model reads them" in reason or "several times" in reason
    x = torch.randn(4, 6)
    for ours, theirs in zip(report.model(x), model(x), strict=True):
        assert torch.equal(ours, theirs)


def test_two_readers_of_one_layer_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)
            nn.init.constant_(self.first.bias, -9.0)

        def forward(self, x):
            hidden = self.first(x).relu_()
            return self.left(hidden) + self.right(hidden)

    report = sparseout.drop_dead(Two().eval(), batches())
    assert report.dropped == ()
    assert "read by left and right" in dict(report.refused)["left"]


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="two batches"):
        sparseout.drop_dead(network(), batches(1))
    with pytest.raises(ValueError, match="evaluation mode"):
        sparseout.drop_dead(network().train(), batches())
    with pytest.raises(TypeError, match="model"):
        sparseout.drop_dead("model", batches())
