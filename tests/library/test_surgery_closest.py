"""Surgery that changes nothing names the closest classes and names in the model."""

import pytest
from torch import nn

import sparseout


class GELUActivation(nn.Module):
    pass


class DropPath(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop_prob = 0.1


def block(activation, dropout):
    return nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(2, 2), activation), "decoder": nn.Sequential(dropout)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model: sparseout.insert_after(model, nn.GELU, q=1.0, p=0.1),
            r"unchanged, because the model has no nn.GELU; closest: GELUActivation \(test_surgery_closest\), e.g. encoder.1$",
        ),
        (
            lambda model: sparseout.insert_after(model, nn.Softmax, q=1.0, p=0.1),
            "the model has no nn.Softmax and no class with a similar name; its classes without submodules: "
            "Linear, GELUActivation, Dropout$",
        ),
        (
            lambda model: sparseout.insert_after(model, GELUActivation, q=1.0, p=0.1, where="decoder.*"),
            r"where='decoder.\*' selects no test_surgery_closest.GELUActivation, only decoder.0; "
            "test_surgery_closest.GELUActivation in the model: encoder.1$",
        ),
        (
            lambda model: sparseout.insert_after(model, GELUActivation, q=1.0, p=0.1, where="encodr.1"),
            "where='encodr.1' matches no name in the model; closest: encoder.1$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where="decodr.0"),
            "unchanged, because where='decodr.0' matches no name in the model; closest: decoder.0$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where="blocks.*"),
            r"where='blocks.\*' matches no name in the model; dropout module in the model: decoder.0$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where="encoder.*"),
            r"where='encoder.\*' selects no dropout module, only encoder.0, encoder.1; dropout module in the model: decoder.0$",
        ),
        (
            lambda model: sparseout.swap_dropout(model, 1.5, where=lambda name, module: False),
            "where selects no dropout module; dropout module in the model: decoder.0$",
        ),
    ],
)
def test_the_closest_names_and_classes_are_listed(change, message):
    model = block(GELUActivation(), nn.Dropout())
    with pytest.warns(UserWarning, match=message):
        change(model)


@pytest.mark.parametrize(
    ("dropout", "message"),
    [
        (
            DropPath(),
            r"the model has no dropout module; closest: DropPath \(test_surgery_closest\), e.g. decoder.0; mapping= adds classes",
        ),
        (
            nn.Identity(),
            "the model has no dropout module; check_swap finds calls of functional dropout, and insert_after",
        ),
    ],
)
def test_a_model_without_dropout_gets_advice(dropout, message):
    with pytest.warns(UserWarning, match=f"unchanged, because {message}"):
        sparseout.swap_dropout(block(nn.ReLU(), dropout), 1.5)
