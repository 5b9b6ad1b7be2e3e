"""Only the vectors of tokens are measured, for every kind of mask, and a mask that cannot be understood is named."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from sparseout import Probe, metrics

LENGTHS = torch.tensor([16, 1, 3, 9, 2, 4, 1, 5, 2, 4])  # 47 tokens and 113 padded positions
TOKENS = torch.arange(16) < LENGTHS[:, None]
LOWEST = torch.finfo(torch.float32).min
CAUSAL = torch.ones(16, 16, dtype=torch.bool).tril()
LEFT = TOKENS.flip(1)


def additive(keep, lowest=-torch.inf, dtype=torch.float32):
    return torch.zeros(keep.shape, dtype=dtype).masked_fill(~keep, lowest)


def batch(batch_first=True, seed=0):
    x = torch.randn(10, 16, 6, generator=torch.Generator().manual_seed(seed))
    return x if batch_first else x.transpose(0, 1)


class Model(nn.Module):
    """An activation of every position, and the value it had last."""

    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def seen(self, x):
        self.value = self.act(x)
        return self.value


def model_with(*names, inner=None):
    """A model whose `forward` takes masks of these names."""
    scope = {}
    arguments = ", ".join(f"{name}=None" for name in names)
    exec(f"def forward(self, x, {arguments}):\n    return self.seen(x)", scope)
    return type("Model", (Model,), {"forward": scope["forward"]})()


def assert_tokens_alone(model, value, tokens=TOKENS, name="act", padding=113, **masks):
    with Probe(model, measures=["zeros", "hoyer"]) as probe:
        model(value, **masks)
    record = probe.summary()[name]
    kept = model.value[tokens].double()
    assert (record.vectors, record.padding, record.unread_mask) == (len(kept), padding, None)
    assert record.hoyer == pytest.approx(metrics.hoyer(kept).mean().item(), rel=1e-6)
    assert record.zeros == pytest.approx((kept == 0).double().mean().item())


def assert_not_understood(model, value, message, name="act", **masks):
    with Probe(model) as probe:
        model(value, **masks)
    record = probe.summary()[name]
    assert record.padding is None
    assert message in record.unread_mask
    assert f"{name}: {record.unread_mask}, so padding is included" in str(probe.summary())


KEEP = {
    "bool": TOKENS,
    "int": TOKENS.long(),
    "float": TOKENS.float(),
    "-inf": additive(TOKENS),
    "lowest": additive(TOKENS, LOWEST),
    "-10000": additive(TOKENS, -10000.0),
    "bfloat16": additive(TOKENS, -10000.0, torch.bfloat16),
    "half": additive(TOKENS, torch.finfo(torch.float16).min, torch.float16),
    "(B, 1, 1, T)": additive(TOKENS, LOWEST)[:, None, None],
    "(B, 1, T, T)": additive(TOKENS[:, None, None] & CAUSAL, LOWEST),
    "(B, H, T, T)": additive((TOKENS[:, None, None] & CAUSAL).expand(10, 2, 16, 16)),
    "masked queries": additive(TOKENS[:, None, None] & TOKENS[:, None, :, None] & CAUSAL),
    "bool (B, 1, 1, T)": TOKENS[:, None, None],
    "bool (B, 1, T, T)": TOKENS[:, None, None] & CAUSAL,
    "int (B, T, T)": (TOKENS[:, None] & CAUSAL).long(),
}


@pytest.mark.parametrize("mask", KEEP.values(), ids=KEEP)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_an_attention_mask_of_any_form(mask, mode):
    with mode():
        assert_tokens_alone(model_with("attention_mask"), batch(), attention_mask=mask.clone())


@pytest.mark.parametrize("mask", [TOKENS, additive(TOKENS), (TOKENS[:, None, None] & CAUSAL)], ids=["bool", "additive", "4-D"])
def test_left_padding(mask):
    mask = mask.flip(-1) if mask.dim() == 2 else LEFT[:, None, None] & CAUSAL
    assert_tokens_alone(model_with("attention_mask"), batch(), LEFT, attention_mask=mask)


@pytest.mark.parametrize(
    "name", ["src_key_padding_mask", "tgt_key_padding_mask", "memory_key_padding_mask", "key_padding_mask", "padding_mask"]
)
@pytest.mark.parametrize(
    "mask", [~TOKENS, (~TOKENS).int(), additive(TOKENS), additive(TOKENS, LOWEST)], ids=["bool", "int", "-inf", "lowest"]
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_padding_mask_is_true_for_padding(name, mask, batch_first):
    tokens = TOKENS if batch_first else TOKENS.T
    assert_tokens_alone(model_with(name), batch(batch_first), tokens, **{name: mask})


@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS.int(), LENGTHS.tolist()], ids=["tensor", "int32", "list"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_lengths(lengths, batch_first):
    assert_tokens_alone(model_with("lengths"), batch(batch_first), TOKENS if batch_first else TOKENS.T, lengths=lengths)


def test_a_batch_that_is_longer_than_its_longest_sample():
    short = LENGTHS.clamp(max=9)
    tokens = torch.arange(16) < short[:, None]
    assert_tokens_alone(model_with("lengths"), batch(), tokens, padding=160 - int(short.sum()), lengths=short)


def test_a_mask_given_by_position_or_to_a_part_alone():
    class Whole(Model):
        def __init__(self):
            super().__init__()
            self.part = model_with("mask", "padding_mask")

        def forward(self, x):
            return self.seen(self.part(x, None, ~TOKENS))

    model = Whole()
    with Probe(model) as probe:
        model(batch())
    assert (probe.summary()["part.act"].vectors, probe.summary()["part.act"].padding) == (47, 113)
    assert (probe.summary()["act"].vectors, probe.summary()["act"].padding) == (160, 0)


class Packing(Model):
    """An LSTM over packed samples, and an activation of what comes out of it, with its padding."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x, lengths=None):
        packed = x if isinstance(x, PackedSequence) else pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
        return self.seen(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


@pytest.mark.parametrize("given", ["lengths", "a packed sequence", "neither"])
def test_a_packed_sequence_has_no_padding_and_neither_has_its_padded_form(given):
    model = Packing()
    packed = pack_padded_sequence(batch(), LENGTHS, batch_first=True, enforce_sorted=False)
    with Probe(model, ["lstm", "act"]) as probe:
        model(packed if given == "a packed sequence" else batch(), **({"lengths": LENGTHS} if given == "lengths" else {}))
    for name, padding in (("lstm", 0), ("act", 113)):
        assert (probe.summary()[name].vectors, probe.summary()[name].padding) == (47, padding)


@pytest.mark.parametrize(
    ("names", "masks", "message"),
    [
        (["mask"], {"mask": TOKENS}, "mask of the model (Model) of shape (10, 16) follows no known convention"),
        (["mask"], {"mask": CAUSAL}, "mask of the model (Model) of shape (16, 16) follows no known convention"),
        (["attention_mask"], {"attention_mask": {"full": TOKENS}}, "attention_mask of the model (Model) is a dict"),
        (["attention_mask"], {"attention_mask": CAUSAL}, "of shape (16, 16) does not fit its value of shape (10, 16, 6)"),
        (["attention_mask"], {"attention_mask": torch.rand(10, 16)}, "holds other values"),
        (["attention_mask"], {"attention_mask": torch.full((10, 16), torch.nan)}, "holds other values"),
        (["attention_mask"], {"attention_mask": torch.zeros(10, 1, 16, 8)}, "does not tell which positions are padding"),
        (["attention_mask"], {"attention_mask": TOKENS[:, None, None].float()}, "holds NaN or positive values"),
        (["padding_mask"], {"padding_mask": (~TOKENS).float()}, "holds other values"),
        (["lengths"], {"lengths": LENGTHS.float()}, "must be a vector of integers"),
        (["lengths"], {"lengths": LENGTHS + 9}, "does not fit"),
        (["seq_lens"], {"seq_lens": LENGTHS}, "seq_lens of the model (Model)"),
        (
            ["attention_mask", "padding_mask"],
            {"attention_mask": TOKENS, "padding_mask": TOKENS},
            "attention_mask of the model (Model) and padding_mask of the model (Model) both fit",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mask_that_cannot_be_understood_is_named(names, masks, message):
    assert_not_understood(model_with(*names), batch(), message, **masks)


@pytest.mark.slow
def test_a_block_mask_is_named():
    from torch.nn.attention.flex_attention import create_block_mask

    mask = create_block_mask(lambda b, h, q, k: q >= k, 10, 1, 16, 16, device="cpu")
    assert_not_understood(
        model_with("attention_mask"), batch(), "attention_mask of the model (Model) is a BlockMask", attention_mask=mask
    )


@pytest.mark.parametrize("inner", [{"full": None}, torch.zeros(10, 1, 16, 16), CAUSAL[None, None]], ids=["dict", "4-D", "causal"])
def test_a_part_that_is_given_another_form_of_the_mask_keeps_that_of_the_model(inner):
    class Whole(Model):
        def __init__(self):
            super().__init__()
            self.part = model_with("attention_mask", "mask")

        def forward(self, x, attention_mask=None):
            return self.part(x, inner, inner)

    with Probe(model := Whole(), "part.act") as probe:
        model(batch(), attention_mask=TOKENS)
    assert (probe.summary()["part.act"].vectors, probe.summary()["part.act"].padding) == (47, 113)


def test_a_square_batch_does_not_say_which_side_holds_the_tokens():
    model, square = model_with("attention_mask"), torch.ones(6, 6).tril()
    assert_not_understood(model, torch.randn(6, 6, 4), "does not tell which dimension", attention_mask=square)


def test_flattened_values_of_a_padding_mask_may_be_in_either_order():
    model = model_with("padding_mask")
    assert_not_understood(
        model, batch().flatten(0, 1), "whether its flattened value has the batch or the tokens first", padding_mask=~TOKENS
    )


def test_rows_that_attend_to_all_among_rows_that_do_not_are_named():
    mask = LEFT[:, None, None] & CAUSAL
    unmasked = mask | ~mask.any(-1, keepdim=True)
    assert_not_understood(
        model_with("attention_mask"), batch(), "lets only some positions attend to all", attention_mask=unmasked
    )


def test_a_causal_mask_has_no_padding():
    for mask in (CAUSAL[None, None], additive(CAUSAL)[None, None], CAUSAL[None, None].expand(10, 2, 16, 16)):
        assert_tokens_alone(
            model_with("attention_mask"), batch(), torch.ones(10, 16, dtype=torch.bool), padding=0, attention_mask=mask
        )


def test_without_padding_nothing_is_left_out():
    everything = torch.ones(10, 16, dtype=torch.bool)
    for name, mask in (
        ("attention_mask", additive(everything)),
        ("padding_mask", ~everything),
        ("padding_mask", additive(everything)),
    ):
        assert_tokens_alone(model_with(name), batch(), everything, padding=0, **{name: mask})


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("form", ["bool", "additive"])
@pytest.mark.parametrize("causal", [True, False])
def test_torchs_encoder(batch_first, training, form, causal):
    layer = nn.TransformerEncoderLayer(6, 2, 8, activation=nn.ReLU(), batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first).train(training)
    mask = ~TOKENS if form == "bool" else additive(TOKENS)
    attention = None if not causal else ~CAUSAL if form == "bool" else additive(CAUSAL)
    with torch.no_grad(), Probe(model) as probe:
        for _ in range(2):
            model(batch(batch_first), mask=attention, src_key_padding_mask=mask)
    assert {(record.vectors, record.padding, record.calls) for record in probe.summary().layers} == {(94, 226, 2)}
    assert len(probe.summary().layers) == 8


def test_a_square_batch_in_torchs_encoder_is_not_ambiguous():
    tokens = torch.arange(10) < torch.tensor([10, 1, 2, 3, 4, 5, 1, 1, 1, 1])[:, None]
    for batch_first, kept in ((True, tokens), (False, tokens.T)):
        layer = nn.TransformerEncoderLayer(6, 2, 8, activation=nn.ReLU(), batch_first=batch_first)
        values = []
        layer.activation.register_forward_hook(lambda module, args, value, into=values: into.append(value))
        with Probe(layer, "activation") as probe:
            layer(torch.randn(10, 10, 6), src_key_padding_mask=~tokens)
        record = probe.summary()["activation"]
        assert (record.vectors, record.padding) == (29, 71)
        assert record.hoyer == pytest.approx(metrics.hoyer(values[0][kept].double()).mean().item(), rel=1e-6)


def test_torchs_encoder_and_decoder_have_padding_of_their_own():
    model = nn.Transformer(6, 2, 1, 1, 8, batch_first=True)
    target = torch.arange(16) < LENGTHS.flip(0).clamp(max=5)[:, None]
    masks = {"src_key_padding_mask": ~TOKENS, "tgt_key_padding_mask": ~target, "memory_key_padding_mask": ~TOKENS}
    with Probe(model, ["*.dropout", "*.multihead_attn"]) as probe:
        model(batch(), batch(seed=1), **masks)
    found = {record.layer: (record.vectors, record.padding) for record in probe.summary().layers}
    own = (int(target.sum()), int((~target).sum()))
    assert found == {
        "encoder.layers.0.dropout": (47, 113),
        "decoder.layers.0.dropout": own,
        "decoder.layers.0.multihead_attn": own,
    }
    with Probe(model, "*.dropout") as probe:
        model(batch(), batch(seed=1), src_key_padding_mask=~TOKENS, memory_key_padding_mask=~TOKENS)
    assert [(record.vectors, record.padding) for record in probe.summary().layers] == [(47, 113), (160, 0)]


def test_attention_over_keys_of_another_sequence_says_nothing_of_its_queries():
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    with Probe(attention, "") as probe:
        attention(batch(), batch(seed=1), batch(seed=1), key_padding_mask=~TOKENS)
    assert probe.summary()[""].vectors == 160
    with Probe(attention, "") as probe:
        attention(x := batch(), x, x, key_padding_mask=~TOKENS)
    assert (probe.summary()[""].vectors, probe.summary()[""].padding) == (47, 113)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_has_no_padding():
    parts = [torch.randn(int(length), 6) for length in LENGTHS]
    for layout in (torch.strided, torch.jagged):
        with Probe(model := nn.Sequential(nn.ReLU())) as probe:
            model(torch.nested.nested_tensor(parts, layout=layout))
        assert (probe.summary()["0"].vectors, probe.summary()["0"].padding) == (47, 0)
        assert probe.summary()["0"].hoyer == pytest.approx(
            metrics.hoyer(torch.cat(parts).relu().double()).mean().item(), rel=1e-6
        )


def test_a_value_has_the_mask_that_fits_it():
    model = model_with("src_key_padding_mask", "tgt_key_padding_mask")
    masks = {"src_key_padding_mask": ~TOKENS, "tgt_key_padding_mask": ~TOKENS[:, :9]}
    assert_tokens_alone(model, batch(), **masks)
    assert_tokens_alone(model, batch()[:, :9], TOKENS[:, :9], padding=90 - int(TOKENS[:, :9].sum()), **masks)
    assert_not_understood(model, batch()[:, :4], "does not fit", **masks)
