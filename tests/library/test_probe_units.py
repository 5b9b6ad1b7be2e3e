"""Which units fire and what excites them: equal for any split into batches and ranks, without padding, in bounded memory."""

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, nn

from sparseout import Probe
from sparseout.probe import Summary
from sparseout.records.unit_activity import ALMOST_DEAD, UnitActivity

K = 3


def layer_of(x, split, **options):
    """The record of an identity that is called on `x` in batches of `split`."""
    model = nn.Sequential(nn.Identity())
    with Probe(model, layers=["0"], **{"measures": ["dead"], "samples": K, **options}) as probe:
        for batch in x.split(split):
            model(batch)
    return probe.summary()["0"]


def sparse(*shape, seed=0, kept=0.3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < kept)


def described(activity):
    return (*activity.quietest, *activity.loudest)


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 30),
    positions=st.integers(1, 4),
    units=st.integers(1, 80),
    split=st.integers(1, 30),
    kept=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_any_split_gives_the_firing_rates_and_the_strongest_samples(samples, positions, units, split, kept, seed):
    x = sparse(samples, positions, units, seed=seed, kept=kept)
    activity = layer_of(x, split).unit_activity
    fired = (x != 0).flatten(0, 1).sum(0)
    vectors = samples * positions
    assert activity.dead == (fired == 0).sum()
    assert activity.almost_dead == ((fired > 0) & (fired < ALMOST_DEAD * vectors)).sum()
    assert list(activity.rates) == pytest.approx(sorted((fired / vectors).tolist())) if units <= 65 else len(activity.rates) == 65
    assert len({unit.unit for unit in described(activity)}) == len(described(activity))
    peaks = x.abs().amax(1)
    for unit in described(activity):
        assert unit.fired == fired[unit.unit]
        expected = [value for value in peaks[:, unit.unit].sort(descending=True).values[:K].tolist() if value > 0]
        assert [sample.value for sample in unit.samples] == expected
        for sample in unit.samples:
            assert x[sample.sample, sample.position, unit.unit].abs() == sample.value
            assert sample.positions == positions
        assert len({sample.sample for sample in unit.samples}) == len(unit.samples)


def test_the_least_and_the_most_active_units_are_described():
    x = torch.zeros(1000, 100)
    for unit in range(100):
        x[: 10 * max(0, unit - 39), unit] = 1
    activity = layer_of(x, 64).unit_activity
    assert (activity.dead, activity.almost_dead) == (40, 0)
    assert [unit.unit for unit in activity.quietest] == [*range(32), *range(40, 48)]
    assert [unit.unit for unit in activity.loudest] == [99, 98, 97, 96]
    assert [activity.rates[i] for i in (0, 64)] == [0, 0.6]


def test_of_units_that_fire_equally_often_the_smaller_one_is_the_quieter_one():
    x = torch.ones(5, 20) * torch.arange(20, 0, -1)
    assert [unit.unit for unit in layer_of(x, 5).unit_activity.quietest] == [*range(19, 11, -1)]


def test_padding_excites_nothing():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x, attention_mask):
            return self.act(x)

    x = sparse(4, 6, 10, seed=1).abs()
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0]])
    x[mask == 0] = 100
    with Probe(Model(), measures=["dead"], samples=K) as probe:
        probe._model(x, attention_mask=mask)
    found = [sample for unit in described(probe.summary()["act"].unit_activity) for sample in unit.samples]
    assert found
    assert all(mask[sample.sample, sample.position] for sample in found)
    assert max(sample.value for sample in found) < 100


def test_values_that_are_not_finite_excite_nothing():
    x = sparse(6, 8, kept=1.0)
    x[2], x[3] = torch.nan, torch.inf
    samples = {sample.sample for unit in described(layer_of(x, 2).unit_activity) for sample in unit.samples}
    assert samples
    assert samples.isdisjoint({2, 3})


def test_convolutions_and_inputs_with_time_first():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    x = torch.randn(7, 3, 6, 6)
    with Probe(model, measures=["dead"], samples=1) as probe:
        model(x)
    for unit in described(probe.summary()["1"].unit_activity):
        for sample in unit.samples:
            assert model(x)[sample.sample, unit.unit].flatten()[sample.position] == sample.value
            assert sample.positions == 16


def test_a_shape_that_does_not_tell_the_samples_has_none():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x):
            return self.act(x[:5])

    with Probe(model := Grouped(), measures=["dead"], samples=1) as probe:
        model(torch.randn(8, 4))
    activity = probe.summary()["act"].unit_activity
    assert [unit.samples for unit in described(activity)] == [()] * 4


def test_a_sample_is_counted_if_its_forward_pass_is_not_measured_too():
    x = torch.arange(1.0, 13).reshape(12, 1).expand(12, 2)
    unit = layer_of(x, 3, every=2).unit_activity.quietest[0]
    assert [sample.sample for sample in unit.samples] == [8, 7, 6]


def test_a_reset_counts_from_0():
    model = nn.Sequential(nn.ReLU())
    with Probe(model, measures=["dead"], samples=1) as probe:
        model(torch.ones(5, 2))
        probe.reset()
        model(torch.ones(5, 2))
    assert probe.summary()["0"].unit_activity.quietest[0].samples[0].sample == 0


def test_samples_are_kept_only_if_asked_for():
    model = nn.Sequential(nn.ReLU())
    for options, activity, samples in (({}, False, 0), ({"measures": "all"}, True, 0), ({"samples": 2}, True, 2)):
        with Probe(model, **options) as probe:
            model(torch.ones(5, 2))
        found = probe.summary()["0"].unit_activity
        assert (found is not None) == activity
        assert all(len(unit.samples) == samples for unit in (found.quietest if found else ()))


@pytest.mark.parametrize("samples", [-1, 17, 1.5])
def test_samples_out_of_range(samples):
    with pytest.raises(ValueError, match=f"samples must be an integer from 0 to 16, got {samples}"):
        Probe(nn.Sequential(nn.ReLU()), samples=samples)


def test_vectors_of_different_lengths_have_no_units():
    model = nn.Sequential(nn.ReLU())
    with Probe(model, samples=K) as probe:
        model(torch.ones(5, 2))
        model(torch.ones(5, 3))
    assert probe.summary()["0"].unit_activity is None


def test_json_holds_the_units():
    summary = Summary("Net", (layer_of(sparse(20, 100), 4),), {}, Probe(nn.Sequential(nn.ReLU())).settings, {}, {})
    assert Summary.from_json(summary.to_json()) == summary
    assert isinstance(Summary.from_json(summary.to_json()).layers[0].unit_activity, UnitActivity)


def test_a_record_is_of_bounded_size():
    activity = layer_of(sparse(400, 4000, kept=0.005), 80).unit_activity
    assert (len(activity.quietest), len(activity.loudest), len(activity.rates)) == (40, 4, 65)
    assert len(str(activity)) < 10_000


def run(rank, world, folder):
    x = sparse(12, 3, 30, seed=3)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    model = nn.Sequential(nn.ReLU())
    with Probe(model, measures=["dead"], samples=K) as probe:
        for batch in x[rank::world].split(2):
            model(batch)
    (folder / f"{rank}.json").write_text(probe.gather().to_json())
    distributed.destroy_process_group()


def test_two_ranks(tmp_path):
    torch.multiprocessing.spawn(run, (2, tmp_path), nprocs=2)
    first, second = (Summary.read(tmp_path / f"{rank}.json")["0"].unit_activity for rank in (0, 1))
    assert first == second
    alone = layer_of(sparse(12, 3, 30, seed=3).relu(), 5).unit_activity
    assert first.rates == alone.rates
    for one, other in zip(described(first), described(alone), strict=True):
        assert (one.unit, one.fired) == (other.unit, other.fired)
        assert [(2 * s.sample + s.rank, s.position, s.value) for s in one.samples] == [
            (s.sample, s.position, s.value) for s in other.samples
        ]
