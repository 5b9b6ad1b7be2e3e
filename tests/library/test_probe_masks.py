"""Padding is left out according to the attention_mask, and the record reports masks that cannot be understood."""

import pytest
import torch
from torch import nn

from sparseout import Probe, metrics

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
TOKENS = MASK.bool()


class Encoder(nn.Module):
    """One activation, applied to the tokens in the shape that a subclass gives them."""

    def __init__(self, view=lambda x: x):
        super().__init__()
        self.view = view
        self.linear, self.act = nn.Linear(6, 6), nn.GELU()

    def forward(self, x, attention_mask=None):
        return self.act(self.view(self.linear(x)))


class Wrapper(nn.Module):
    """A model whose mask reaches its parts in another form, as in transformers."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, attention_mask=None):
        return self.encoder(x, attention_mask[:, None, None, :] if attention_mask is not None else None)


def record_of(model, *args, name="act", **kwargs):
    with Probe(model, measures="all") as probe:
        value = model(*args, **kwargs)
    return probe.summary()[name], value


@pytest.mark.parametrize("mask", [MASK, TOKENS, MASK.float()])
@pytest.mark.parametrize("by_name", [True, False])
def test_padding_is_left_out(mask, by_name):
    x = torch.randn(3, 4, 6)
    model = Encoder()
    record, y = record_of(model, x, attention_mask=mask) if by_name else record_of(model, x, mask)
    assert (record.vectors, record.padding) == (7, 5)
    assert record.hoyer == pytest.approx(metrics.hoyer(y[TOKENS].double()).mean().item(), rel=1e-6)


def test_without_padding_all_is_counted():
    record, _ = record_of(Encoder(), torch.randn(3, 4, 6), attention_mask=torch.ones(3, 4))
    assert (record.vectors, record.padding) == (12, 0)
    record, _ = record_of(Encoder(), torch.randn(3, 4, 6))
    assert (record.vectors, record.padding) == (12, 0)


def test_an_inner_mask_of_another_form_leaves_the_outer_one():
    record, _ = record_of(Wrapper(Encoder()), torch.randn(3, 4, 6), attention_mask=MASK, name="encoder.act")
    assert (record.vectors, record.padding) == (7, 5)


@pytest.mark.parametrize(
    ("view", "vectors", "padding"),
    [
        (lambda x: x.reshape(12, 6), 7, 5),
        (lambda x: x.reshape(3, 4, 2, 3).transpose(1, 2), 14, 10),
        (lambda x: x[:, 0], 3, 0),
        (lambda x: x[:, :3], 9, None),
        (lambda x: x.reshape(12, 6)[:5], 5, None),
    ],
    ids=["flattened", "heads", "pooled", "shortened", "routed"],
)
def test_values_of_other_shapes(view, vectors, padding):
    record, y = record_of(Encoder(view), torch.randn(3, 4, 6), attention_mask=MASK)
    assert (record.vectors, record.padding) == (vectors, padding)
    if padding and y.dim() == 4:
        expected = metrics.hoyer(y.double())[TOKENS[:, None].expand(3, 2, 4)].mean()
        assert record.hoyer == pytest.approx(expected.item(), rel=1e-6)


def test_a_mask_that_does_not_fit_is_told():
    with Probe(model := Encoder(lambda x: x[:, :3])) as probe:
        model(torch.randn(3, 4, 6), attention_mask=MASK)
    mask = "attention_mask of the model (Encoder) of shape (3, 4) does not fit its value of shape (3, 3, 6)"
    assert f"act: {mask}, so padding is included" in str(probe.summary())


class EncoderDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Encoder()

    def forward(self, x, attention_mask=None, decoder_attention_mask=None):
        return self.decoder(self.encoder(x, attention_mask=attention_mask), attention_mask=decoder_attention_mask)


def test_encoder_and_decoder_have_masks_of_their_own():
    model = EncoderDecoder()
    with Probe(model) as probe:
        model(torch.randn(3, 4, 6), attention_mask=MASK)
    assert (probe.summary()["encoder.act"].vectors, probe.summary()["decoder.act"].vectors) == (7, 12)
    with Probe(model) as probe:
        model(torch.randn(3, 4, 6), attention_mask=MASK, decoder_attention_mask=1 - MASK)
    assert (probe.summary()["encoder.act"].vectors, probe.summary()["decoder.act"].vectors) == (7, 5)


def test_a_mask_ends_with_its_call():
    model = nn.ModuleDict({"masked": Encoder(), "plain": Encoder()})
    model.forward = lambda x: model["plain"](model["masked"](x, attention_mask=MASK))
    with Probe(model) as probe:
        model(torch.randn(3, 4, 6))
    assert (probe.summary()["masked.act"].vectors, probe.summary()["plain.act"].vectors) == (7, 12)


def test_a_mask_ends_when_the_model_raises():
    class Fails(Encoder):
        def forward(self, x, attention_mask=None):
            if attention_mask is not None:
                raise ValueError("no")
            return super().forward(x)

    model = nn.Sequential(Fails())
    with Probe(model) as probe:
        with pytest.raises(ValueError, match="no"):
            model[0](torch.randn(3, 4, 6), attention_mask=MASK)
        model[0](torch.randn(3, 4, 6))
    assert probe.summary()["0.act"].vectors == 12
