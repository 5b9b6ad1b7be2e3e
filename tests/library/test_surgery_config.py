"""`config` and `apply_config` carry the layers and settings of a model to another one of the same architecture."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from surgery_models import ACTIVATIONS, models, tree
from torch import nn

import sparseout
from sparseout import LockedSparseout, Sparseout, Sparseout1d, regularizers
from sparseout.surgery.layer_data import KINDS

OWN = {
    "Sparseout": lambda: Sparseout(0.3, 1.5, True, scale=0.5, eps=1e-3, shared_dims=(0, -1), gradient="exact"),
    "Sparseout1d": lambda: Sparseout1d(0.3, 1.5, scale="rms"),
    "Sparseout2d": lambda: sparseout.Sparseout2d(0.3, 1.5),
    "Sparseout3d": lambda: sparseout.Sparseout3d(0.3, 1.5),
    "LockedSparseout": lambda: LockedSparseout(0.3, 1.5, batch_first=True),
    "BatchKWinners": lambda: regularizers.BatchKWinners(0.3, 1),
    "Bridgeout": lambda: regularizers.Bridgeout(3, 4, p=0.1, q=1.5, draws="batch"),
    "DeCov": lambda: regularizers.DeCov(0.3),
    "HardConcrete": lambda: regularizers.HardConcrete(0.3, units=4, p=0.2, dim=1, per_sample=True),
    "HoyerSquare": lambda: regularizers.HoyerSquare(0.3),
    "KLTarget": lambda: regularizers.KLTarget(0.3, 0.1),
    "KWinners": lambda: regularizers.KWinners(0.3, k_eval=2, boost_strength=1.5, units=4),
    "L1": lambda: regularizers.L1(0.3),
    "LifetimeWinners": lambda: regularizers.LifetimeWinners(2),
    "Parsimonious": lambda: regularizers.Parsimonious(0.3, units=4, clusters=3, decay=0.5),
    "Shakeout": lambda: regularizers.Shakeout(3, 4, p=0.1, c=0.5),
    "Standout": lambda: regularizers.Standout(0.5, -1.0),
    "TransformedL1": lambda: regularizers.TransformedL1(0.3, a=0.5),
}
OTHER = {
    "Sparseout": lambda: Sparseout(scale="rms"),
    "Sparseout1d": lambda: Sparseout1d(gradient="exact"),
    "LockedSparseout": lambda: LockedSparseout(batch_first=True),
    "Bridgeout": lambda: regularizers.Bridgeout(3, 4),
    "HardConcrete": lambda: regularizers.HardConcrete(1.0, units=4),
    "KWinners": lambda: regularizers.KWinners(1, boost_strength=0.5, units=4),
    "LifetimeWinners": lambda: regularizers.LifetimeWinners(0.5),
    "Parsimonious": lambda: regularizers.Parsimonious(1.0, units=4, clusters=3),
    "Shakeout": lambda: regularizers.Shakeout(3, 4),
    "Standout": regularizers.Standout,
    "BatchKWinners": lambda: regularizers.BatchKWinners(1),
}


def sent(model):
    return json.loads(json.dumps(sparseout.config(model)))


@given(model=models(), q=st.floats(0, 4), insert=st.booleans())
def test_the_layers_of_surgery_come_back_in_a_fresh_model(model, q, insert):
    fresh = copy.deepcopy(model)
    changed = sparseout.swap_dropout(model, q).model
    if insert:
        changed = sparseout.insert_after(changed, ACTIVATIONS, q=q, p=0.25).model
    again = sparseout.apply_config(fresh, sent(changed))
    assert again is fresh
    assert repr(again) == repr(changed)
    ids, expected = tree(again), tree(changed)
    assert {name: [other for other in ids if ids[other] == ids[name]] for name in ids} == {
        name: [other for other in expected if expected[other] == expected[name]] for name in expected
    }
    assert sparseout.config(again) == sparseout.config(changed)
    assert [module.training for module in again.modules()] == [module.training for module in changed.modules()]
    assert repr(sparseout.restore(copy.deepcopy(again))) == repr(sparseout.restore(copy.deepcopy(changed)))


def test_every_class_of_the_library_has_a_case():
    assert set(OWN) == set(KINDS)
    layers = {name for name in regularizers.__all__ if isinstance(getattr(regularizers, name), type)}
    assert layers - {"Penalty"} <= set(KINDS)


@pytest.mark.parametrize("name", OWN)
def test_a_layer_of_the_model_gets_the_settings(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), OWN[name]())
    other = nn.Sequential(nn.Linear(3, 3), OTHER.get(name, lambda: type(model[1])(1.0))())
    before, layer = {key: value.clone() for key, value in other.state_dict().items() if "running" not in key}, other[1]
    state = torch.get_rng_state()
    sparseout.apply_config(other, sent(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert other[1] is layer
    assert repr(other) == repr(model)
    assert sent(other) == sent(model)
    after = {key: value for key, value in other.state_dict().items() if "running" not in key}
    torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)
    other.load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", [name for name in OWN if name not in ("Bridgeout", "Shakeout")])
def test_an_inserted_layer_of_any_class_comes_back_with_its_weights(name):
    def load():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU())

    model = sparseout.insert_after(load(), nn.ReLU, lambda activation: OWN[name]()).model
    again = load()
    state = torch.get_rng_state()
    sparseout.apply_config(again, sent(model))
    assert torch.equal(torch.get_rng_state(), state)
    again.load_state_dict(model.state_dict())
    assert repr(again) == repr(model)


def test_the_settings_of_a_target_and_a_schedule_travel():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Sparseout(0.5), nn.Linear(8, 4))
    model[2].q, model[2].p, model[2].scale = 1.3, 0.7, "rms"
    again = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Sparseout(0.5), nn.Linear(8, 4))
    sparseout.apply_config(again, sent(model)).load_state_dict(model.state_dict())
    assert (again[2].q, again[2].p, again[2].scale) == (1.3, 0.7, "rms")


def test_the_reader_of_a_penalty_is_named_and_found():
    def load():
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    model = load()
    sparseout.insert_after(model, nn.ReLU, lambda activation: regularizers.L1(0.1, reader=model[2]), inplace=True)
    config = sent(model)
    assert config["layers"]["1.sparseout"]["reader"] == "2"
    again = sparseout.apply_config(load(), config)
    assert again[1].sparseout.reader is again[2]
    assert set(dict(again.named_modules())) == set(dict(model.named_modules()))
    own = nn.Sequential(nn.Linear(4, 8), regularizers.L1(0.2), nn.Linear(8, 4))
    entry = {"layer": "L1", "strength": 0.1, "reader": "2"}
    assert sparseout.apply_config(own, {"version": 1, "layers": {"1": entry}})[1].reader is own[2]
    own[1]._reader = (nn.Linear(8, 4),)
    with pytest.raises(ValueError, match="reader of L1 must be in the model, got a Linear outside of it"):
        sparseout.config(own)


def test_the_generator_of_a_layer_stays():
    model, generator = nn.Sequential(Sparseout(0.5)), torch.Generator()
    model[0].generator = generator
    assert "generator" not in sent(model)["layers"]["0"]
    assert sparseout.apply_config(model, sent(nn.Sequential(Sparseout(0.2))))[0].generator is generator
    assert model[0].p == 0.2


def test_a_class_of_your_own_is_refused():
    class Mine(Sparseout):
        pass

    with pytest.raises(ValueError, match=r"must have layers of the classes of sparseout alone, got .*Mine at '0'"):
        sparseout.config(nn.Sequential(Mine()))


def fresh():
    return nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.1), Sparseout(0.2), regularizers.KWinners(0.5), LockedSparseout()
    )


def changed():
    model = sparseout.swap_dropout(fresh(), q=1.5).model
    return sparseout.insert_after(model, nn.ReLU, q=1.0, p=0.3).model


def with_entry(name, **entry):
    config = sent(changed())
    config["layers"][name] = config["layers"].get(name, {"layer": "Sparseout"}) | entry
    return config


def without(name, key=None):
    config = sent(changed())
    del (config["layers"][name] if key else config["layers"])[key or name]
    return config


AT = r"config\['layers'\]\['2'\]"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "config must be the result of sparseout.config, .* got None"),
        ([1], "config must be the result of sparseout.config"),
        ({"version": 2, "layers": {}}, r"config\['version'\] must be 1, got 2"),
        ({"layers": {}}, r"config\['version'\] must be 1, got None"),
        ({"version": 1, "layers": [1]}, r"config\['layers'\] must be a dict"),
        ({"version": 1, "layers": {}, "code": "1"}, "config must have the keys 'version' and 'layers' alone, got 'code'"),
        ({"version": 1, "layers": {2: {}}}, r"names in config\['layers'\] must be strings, got 2"),
        ({"version": 1, "layers": {"2": 5}}, f"{AT} must be a dict"),
        (with_entry("2", layer="os.system"), rf"{AT}\['layer'\] must be one of 'Sparseout', .*, got 'os.system'"),
        (with_entry("2", layer="Linear"), rf"{AT}\['layer'\] must be one of"),
        (with_entry("2", layer=["Sparseout"]), rf"{AT}\['layer'\] must be one of"),
        (with_entry("2", layer="Shakeout", c=0.1, p=0.1), f"{AT} must hold settings of Shakeout, p, c, got 'q'"),
        (with_entry("2", p=1.5), f"{AT} must hold valid settings of Sparseout: p must be a drop probability"),
        (with_entry("2", q=math.nan), f"{AT} must hold valid settings of Sparseout: q must be"),
        (with_entry("2", inplace=1), rf"{AT}\['inplace'\] must be a bool, got 1"),
        (with_entry("4", dim="x"), r"\['dim'\] must be an integer, got 'x'"),
        (with_entry("4", boost_strength=1.0, units=-4), "must hold valid settings of KWinners: .*negative"),
        (
            with_entry("4", boost_strength=1.0, units=4),
            r"must fit model, but its tensors would be duty_cycle .* and are none",
        ),
        (with_entry("5", batch_first=True), "must fit model, but batch_first differs"),
        (with_entry("2", generator=1), f"{AT} must not hold a generator"),
        (with_entry("2", code="x"), f"{AT} must hold settings of Sparseout, .*, got 'code'"),
        (with_entry("2", action="explode"), rf"{AT}\['action'\] must be one of 'swap', 'insert', 'insert_before', got 'explode'"),
        (with_entry("2", action="insert"), f"{AT} must have a name that ends in 'sparseout' with action 'insert'"),
        (
            with_entry("2", old="os.system"),
            "must fit model, but it changes os.system at '2', and model has torch.*Dropout",
        ),
        (with_entry("2", old=None), rf"{AT}\['old'\] must be a string, got None"),
        (without("2", "action"), f"{AT} must fit model, which has no such layer of its own"),
        (with_entry("9"), r"\['9'\] must fit model, which has no such layer of its own"),
        (with_entry("9", action="swap", old="x"), "config must fit model, but it changes x at '9', and model has nothing there"),
        (with_entry("0", action="swap", old="torch.nn.modules.linear.Linear"), "a swap at '0' would lose the contents"),
        (with_entry("3", layer="Sparseout1d"), "must hold settings of Sparseout1d, .*, got 'shared_dims'"),
        (without("3"), "config must name all layers of model, but lacks '3', a Sparseout"),
    ],
)
def test_a_config_that_is_invalid_or_does_not_fit_changes_nothing(config, message):
    model = fresh()
    before, text = tree(model), repr(model)
    with pytest.raises(ValueError, match=message) as caught:
        sparseout.apply_config(model, config)
    assert "\n" not in str(caught.value)
    assert (tree(model), repr(model)) == (before, text)


def test_another_class_at_a_place_is_refused():
    config = {"version": 1, "layers": {"0": {"layer": "Sparseout1d", "p": 0.5}}}
    with pytest.raises(ValueError, match="must fit model, but is a Sparseout1d, and model has sparseout.layers.Sparseout there"):
        sparseout.apply_config(nn.Sequential(Sparseout()), config)


def test_names_of_one_module_must_have_equal_settings():
    shared = nn.Dropout(0.2)
    config = sent(sparseout.swap_dropout(nn.Sequential(shared, nn.Linear(1, 1), shared), q=1.5).model)
    config["layers"]["2"]["q"] = 1.0
    model = nn.Sequential(shared, nn.Linear(1, 1), shared)
    with pytest.raises(ValueError, match=r"\['2'\] must equal the settings of the other names of the same module"):
        sparseout.apply_config(model, config)
    assert model[0] is shared
