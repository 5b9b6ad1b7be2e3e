"""`find_q` measures sparsity and loss over a range of `q`, and leaves the model and all random states as they were."""

import contextlib
import copy
import itertools
import math
import random
import re

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import sparseout
from sparseout import Sparseout, SparsityTarget, find_q, regularizers
from sparseout.control import FoundRange, Point

GENERATOR = torch.Generator().manual_seed(0)
DATA = (torch.randn(512, 24, generator=GENERATOR) @ torch.randn(24, 64, generator=GENERATOR)).div(5).relu()


def autoencoder(layer=None, noises=1):
    torch.manual_seed(0)
    widths = [64, *[48] * noises]
    parts = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU(), layer or Sparseout(0.5)]
    return nn.Sequential(*parts, nn.Linear(48, 64))


def loss(model, batch):
    terms = [module for module in model.modules() if isinstance(module, regularizers.Penalty)]
    return F.mse_loss(model(batch), batch) + (sparseout.penalty(model) if terms else 0)


def adam(parameters):
    return torch.optim.Adam(parameters, 3e-3, fused=True)


def train(model, steps, target=None):
    optimizer = adam(list(model.parameters()))
    for batch in itertools.islice(itertools.cycle(DATA.split(64)), steps):
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
        if target is not None:
            target.step()
    return model


def find(model, **settings):
    return find_q(model, DATA.split(64), loss, **{"optimizer": adam, "points": 3, "steps": 60, **settings})


@pytest.fixture(scope="module")
def trained():
    return train(autoencoder(), 400)


@pytest.fixture(scope="module")
def found(trained):
    return find(trained)


def hoyer(model):
    with torch.no_grad():
        return sparseout.metrics.hoyer(copy.deepcopy(model).eval()[:3](DATA)).mean().item()


def test_targets_inside_the_range_are_reached_and_others_are_not(trained, found):
    low, high = found.range
    assert high - low > 0.2
    for fraction in (0.1, 0.5, 0.9):
        model = copy.deepcopy(trained)
        target = SparsityTarget(model, low + fraction * (high - low), bounds=found.bounds, every=2)
        train(model, 500, target)
        assert hoyer(model) == pytest.approx(target.target["2"], abs=0.02)
    model = copy.deepcopy(trained)
    target = SparsityTarget(model, low - 0.08, bounds=found.bounds, every=2)
    with pytest.warns(UserWarning, match="is out of reach"):
        train(model, 500, target)
    assert target.report()["2"].state == "out of reach"


def test_a_point_is_what_training_at_its_q_gives(trained, found):
    model = copy.deepcopy(trained)
    optimizer = adam(list(model.parameters()))
    batches = itertools.cycle(DATA.split(64))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    found = find(trained)
    torch.set_rng_state(state)
    measured = {}
    for q in (2.0, 2.0 - 1.7 / 3):
        model[2].q = q
        if q != 2:
            batches = itertools.cycle(DATA.split(64))  # each copy of the model begins with the first batch
        for batch in itertools.islice(batches, 60):
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
        clean = copy.deepcopy(model).eval()
        with torch.no_grad():
            hidden = [sparseout.metrics.hoyer(clean[:3](batch)).mean().item() for batch in DATA.split(64)[:4]]
            losses = [loss(clean, batch).item() for batch in DATA.split(64)[:4]]
        measured[q] = sum(hidden) / 4, sum(losses) / 4
    for q, (sparsity, value) in measured.items():
        point = next(point for point in found.points if point.value == pytest.approx(q))
        assert (point.mean, point.loss) == (pytest.approx(sparsity, rel=1e-5), pytest.approx(value, rel=1e-5))


def test_the_model_and_every_random_state_stay_as_they_were(trained):
    model = copy.deepcopy(trained)
    model[2].generator = torch.Generator().manual_seed(5)
    loss(model, DATA).backward()
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(DATA), 64, sampler=RandomSampler(DATA, generator=generator), generator=generator)
    random.seed(1)
    numpy.random.seed(1)

    def states():
        return [
            {name: x.clone() for name, x in model.state_dict().items()},
            [parameter.grad.clone() for parameter in model.parameters()],
            [module.training for module in model.modules()],
            (model[2].q, model[2].p, len(model[2]._forward_pre_hooks)),
            *(torch.get_rng_state(), generator.get_state(), model[2].generator.get_state()),
            (random.getstate(), numpy.random.get_state()[1].tolist()),
        ]

    def noisy(model, batch):
        random.random(), numpy.random.rand()
        return loss(model, batch[0])

    before = states()
    find_q(model, loader, noisy, points=1, steps=4, p=(0.1, 0.8))
    torch.testing.assert_close(states(), before, rtol=0, atol=0)


def test_a_model_in_evaluation_mode_is_trained_in_a_copy(trained):
    model = copy.deepcopy(trained).eval()
    assert find(model, points=1).points[0].mean > find(model, points=1).points[-1].mean + 0.1
    assert not model.training


def test_a_new_network_is_still_learning():
    text = repr(find(autoencoder(), points=1))
    assert "the model was still learning where it began, at q = 2: in half of the steps its loss went from" in text


def test_the_mean_and_each_layer_have_a_range():
    found = find(train(autoencoder(noises=2), 300))
    assert list(found.ranges) == ["2", "5"]
    for point in found.points:
        assert point.mean == pytest.approx(sum(point.sparsity.values()) / 2)
    assert "each layer, with the same q in all: 2 " in repr(found)


@pytest.mark.parametrize(
    ("layer", "bounds"), [(lambda: regularizers.KWinners(0.9), None), (lambda: regularizers.L1(1e-4), (1e-3, 1e-1))]
)
def test_the_number_of_any_layer_with_a_dial_is_found(layer, bounds):
    model = train(autoencoder(layer()), 300)
    found = find(model, bounds=bounds)
    assert found.name == model[2].dial.name
    assert len(found.points) == 4
    assert found.range[1] - found.range[0] > 0.2
    assert {found.points[0].value, found.points[-1].value} == {*(bounds or (0.001, 1.0))}


@pytest.mark.parametrize("settings", [{}, {"p": (0.1, 0.9)}, {"bounds": (0.5, 2.0)}])
def test_the_progress_counts_every_step(settings, trained, monkeypatch):
    counts = []

    @contextlib.contextmanager
    def counting(description, total):
        counts.append((description, total, 0))

        def advance():
            counts[0] = (description, total, counts[0][2] + 1)

        yield advance

    monkeypatch.setattr("sparseout.control.finder.counting", counting)
    holds = len(find(trained, points=1, steps=3, **settings).points) + 1  # and the way back
    assert counts == [("steps of find_q", 3 * holds, 3 * holds)]


def test_p_moves_beyond_the_bounds_of_q(trained):
    found = find(trained, bounds=(1.0, 3.0), p=(0.1, 0.9), points=1)
    assert [(point.value, pytest.approx(point.p)) for point in found.points] == [
        *((1.0, 0.9), (1.0, 0.7), (1.0, 0.5)),
        *((2.0, 0.5), (3.0, 0.5), (3.0, 0.3), (3.0, 0.1)),
    ]
    assert found.range[1] > find(trained, bounds=(1.0, 3.0), points=1).range[1]
    assert "(q = 1, p = 0.9)" in repr(found)


def test_a_training_that_diverges_ends_its_side(trained):
    found = find(trained, optimizer=lambda parameters: torch.optim.SGD(parameters, 1e9))
    assert found.range is None
    assert found.bounds is None
    assert repr(found).startswith("no hoyer range: the sparsity settled at no q")
    assert {point.state for point in found.points} == {"not finite"}


def points(*rows):
    return tuple(Point(q, None, 1.0, 1.0, {"a": sparsity}, {"a": moved}) for q, sparsity, moved in rows)


def test_the_range_has_only_sparsities_that_settled_or_moved_outward():
    rows = [(0.5, 0.8, 0.05), (1, 0.7, -0.05), (2, 0.5, 0.004), (3, 0.4, -0.01), (4, 0.3, 0.02)]
    found = FoundRange("q", "hoyer", points(*rows), 2, 10)
    assert found.range == (0.4, 0.8)
    assert found.bounds == (0.5, 3)
    assert [point.state for point in found.points] == ["still rising", "still falling", "settled", "settled", "still rising"]


def test_a_side_ends_where_the_sparsity_turns_back():
    rows = [(0.3, 0.9, 0.0), (1, 0.5, 0.0), (1.5, 0.6, 0.0), (2, 0.4, 0.02), (3, 0.41, 0.0), (4, 0.45, 0.0)]
    found = FoundRange("q", "hoyer", points(*rows), 3, 10)
    assert found.range == (0.41, 0.6)
    assert found.bounds == (1.5, 3)


def test_the_html_has_the_points(found):
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + len(found.points)
    assert repr(found).splitlines()[0] in html


def test_the_figure_has_the_points(found):
    pytest.importorskip("matplotlib")
    axes, losses = found.plot().axes
    assert list(axes.lines[0].get_ydata()) == [point.mean for point in found.points]
    assert list(losses.lines[0].get_ydata()) == [point.loss for point in found.points]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loader": iter([DATA])}, TypeError, "loader must be iterable several times, .* got a list_iterator"),
        ({"loader": []}, ValueError, "loader must have at least one batch, got an empty list"),
        (
            {"loss": lambda model, batch: model(batch)},
            TypeError,
            r"loss must return a tensor of one element, got shape",
        ),
        ({"loss": lambda model, batch: 1.0}, TypeError, "loss must return a tensor of one element, got float"),
        ({"steps": 1}, ValueError, "steps must be an integer of at least 2, got 1"),
        ({"points": 0}, ValueError, "points must be an integer of at least 1, got 0"),
        ({"measure": "kurtosis"}, ValueError, "measure must be one of"),
        ({"p": (0.6, 0.9)}, ValueError, "p must be bounds that hold p=0.5 of 2"),
        ({"bounds": (-1, 2)}, ValueError, "bounds must be values of q in 2"),
        ({"model": nn.Linear(2, 2)}, ValueError, "model must have a layer with a dial"),
    ],
)
def test_bad_arguments_are_refused(change, error, message):
    arguments = {"model": autoencoder(), "loader": DATA.split(64), "loss": loss, **change}
    with pytest.raises(error, match=message) as caught:
        find_q(**arguments)
    assert "\n" not in str(caught.value)


def test_a_loss_that_does_not_call_the_copy_is_refused(trained):
    with pytest.raises(ValueError, match=re.escape("loss must call the model that it is given, but none of the layers ran")):
        find_q(trained, DATA.split(64), lambda model, batch: loss(trained, batch), points=1, steps=2)


def test_a_network_that_comes_back(trained):
    found = find(trained, points=1, bounds=(1.0, 4.0))
    assert found.returned.value == 4.0
    assert found.comes_back
    assert "comes back" not in str(found)


def test_a_network_that_learns_no_more_does_not_come_back(trained):
    calls = itertools.count()

    def loss_of_two_points(model, batch):
        # 40 steps and two measurements of four batches at q = 2, and as many at the lower bound
        return loss(model, batch) * (next(calls) < 2 * (40 + 8))

    def sgd(parameters):
        return torch.optim.SGD(parameters, 1.0)

    found = find_q(trained, DATA.split(64), loss_of_two_points, optimizer=sgd, points=1, steps=40)
    assert found.returned.mean == found.points[0].mean > found.points[1].mean
    assert not found.comes_back
    assert f"after q = 0.3, 40 steps at q = 4 leave {found.returned.mean:.3f}" in str(found)


def test_a_network_that_breaks_on_the_way_back(trained):
    calls = itertools.count()

    def loss_of_two_points(model, batch):
        return loss(model, batch) * (1 if next(calls) < 2 * (40 + 8) else math.nan)

    found = find_q(trained, DATA.split(64), loss_of_two_points, points=1, steps=40)
    assert not found.comes_back
    assert "does not come back: after q = 0.3, 40 steps at q = 4 give a loss or a sparsity that is not finite" in str(found)
