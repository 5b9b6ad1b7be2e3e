"""`sparseout probe hf:NAME_OR_FOLDER`: real models and real files, and mistakes in one line."""

import json
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from probe_cli import Bomb, copied, probe, refused
from safetensors.torch import load_file, save_file

from sparseout import Probe
from sparseout.cli.main import main
from sparseout.probe import Summary

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat"]
LINES = ["the cat sat on the mat", "", "a cat", "the mat sat on a cat on a mat"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(**config, intermediate_size=32)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES))
    return path


def test_a_transformers_model_on_lines_of_text(bert, lines, tmp_path, capsys):
    out, page = tmp_path / "summary.json", tmp_path / "report.html"
    code, printed, err = probe(capsys, f"hf:{bert}", "--data", lines, "--batch-size", "2", "--json", out, "--html", page)
    assert (code, err) == (0, "")
    summary = Summary.read(out)
    record = summary["encoder.layer.0.intermediate.intermediate_act_fn"]
    model, tokenizer = transformers.BertModel.from_pretrained(bert), transformers.BertTokenizer.from_pretrained(bert)
    texts = [line for line in LINES if line]
    with Probe(model.eval(), measures="all") as expected, torch.no_grad():
        model(**tokenizer(texts, padding=True, return_tensors="pt"))
    assert record.vectors == expected.summary()[record.layer].vectors == sum(len(text.split()) + 2 for text in texts)
    assert record.hoyer == pytest.approx(expected.summary()[record.layer].hoyer, rel=1e-6)
    assert summary.forwards == {"eval": {"seen": 2, "measured": 2}}
    assert f"{record.hoyer:.3g}" in printed
    assert "not measured: encoder.layer.0.attention.self.dropout" in printed
    assert f"Report: {page}" in printed
    assert "the cat sat" not in out.read_text()
    assert '{"before":"[CLS] ","token":"the","after":" cat sat on the mat [SEP]"}' in page.read_text()


def test_batches_and_layers_can_be_limited(bert, lines, tmp_path, capsys):
    out = tmp_path / "summary.json"
    flags = ["--batch-size", "1", "--batches", "2", "--layers", "*act_fn", "pooler.activation", "--measures", "basic"]
    assert probe(capsys, f"hf:{bert}", "--data", lines, *flags, "--json", out)[0] == 0
    summary = Summary.read(out)
    assert summary.forwards["eval"]["seen"] == 2
    assert [record.layer.split(".")[-1] for record in summary.layers] == ["intermediate_act_fn"] * 2 + ["activation"]
    assert summary["pooler.activation"].gini is None


def test_a_comparison_with_an_earlier_summary(bert, lines, tmp_path, capsys):
    out, page = tmp_path / "summary.json", tmp_path / "report.html"
    probe(capsys, f"hf:{bert}", "--data", lines, "--batches", "1", "--batch-size", "1", "--json", out)
    code, printed, _ = probe(capsys, f"hf:{bert}", "--data", lines, "--before", out, "--html", page)
    assert code == 0
    assert "→" in printed
    assert all(part in printed for part in ("encoder.layer.0", "pooler.activ"))
    assert "Before, after and difference" in page.read_text()


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_a_decoder_and_an_encoder_decoder(kind, bert, lines, tmp_path, capsys):
    configs = {
        "gpt2": lambda: transformers.GPT2Config(vocab_size=11, n_embd=16, n_layer=1, n_head=2, n_positions=5, bos_token_id=2),
        "t5": lambda: transformers.T5Config(vocab_size=11, d_model=16, d_ff=32, d_kv=8, num_layers=1, num_heads=2),
    }
    transformers.AutoModel.from_config(configs[kind]()).save_pretrained(tmp_path / "model")
    tokenizer = transformers.BertTokenizer(vocab=str(bert / "vocab.txt"))
    tokenizer.pad_token = None if kind == "gpt2" else tokenizer.pad_token
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path / "model")
    out = tmp_path / "summary.json"
    assert probe(capsys, f"hf:{tmp_path / 'model'}", "--data", lines, "--json", out)[0] == 0
    vectors = {record.layer: record.vectors for record in Summary.read(out).layers}
    if kind == "gpt2":
        assert vectors["h.0.mlp.act"] == 5 + 4 + 5  # cut to the positions that the model has
    else:
        assert (
            vectors["encoder.block.0.layer.1.DenseReluDense.act"] == vectors["decoder.block.0.layer.2.DenseReluDense.act"] == 23
        )


def test_pictures(tmp_path, capsys):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    (tmp_path / "pictures").mkdir()
    for i in range(3):
        pixels = numpy.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=numpy.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    out = tmp_path / "summary.json"
    code, _, err = probe(capsys, f"hf:{tmp_path / 'vit'}", "--data", tmp_path / "pictures", "--json", out)
    assert code == 0, err
    assert Summary.read(out)["layers.0.mlp.activation_fn"].vectors == 3 * 5
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    message = refused(capsys, f"hf:{tmp_path / 'vit'}", "--data", tmp_path / "pictures")
    assert "broken.png cannot be read as an image" in message
    (tmp_path / "pictures" / "words.txt").write_text("no picture")
    assert "must be images or text, not both" in refused(capsys, f"hf:{tmp_path / 'vit'}", "--data", tmp_path / "pictures")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "encoder.layr.0.*"], "layers='encoder.layr.0.*' matches no module: the closest names are 'encoder.layer.0"),
        (["--batches", "0"], "--batches must be at least 1, got 0"),
        (["--batch-size", "-1"], "--batch-size must be at least 1, got -1"),
        (["--every", "0"], "--every must be at least 1, got 0"),
        (["--device", "abacus"], "device 'abacus' cannot be used: "),
        (["--html", "no/such/folder/r.html"], "--html cannot be written: no/such/folder/r.html: No such file or directory"),
        (["--json", "/"], "--json must be a file, got the folder /"),
        (["--before", "missing.json"], "--before must be a summary written by --json: "),
    ],
)
def test_a_wrong_flag(flags, message, bert, lines, capsys):
    assert refused(capsys, f"hf:{bert}", "--data", lines, *flags).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "--data must hold at least one line of text: "),
        (b" \n\n", "--data must hold at least one line of text: "),
        (b"\xff\xfe\x00", "data.txt cannot be read as UTF-8 text: "),
        (None, "--data must name files or folders that exist, got "),
    ],
)
def test_a_wrong_data_file(content, message, bert, tmp_path, capsys):
    if content is not None:
        (tmp_path / "data.txt").write_bytes(content)
    assert message in refused(capsys, f"hf:{bert}", "--data", tmp_path / "data.txt")


def test_no_data_and_an_empty_folder(bert, tmp_path, capsys):
    assert refused(capsys, f"hf:{bert}") == "--data must name at least one file, got none"
    assert refused(capsys, f"hf:{bert}", "--data", tmp_path) == f"--data must name at least one file, got {tmp_path}"


@pytest.mark.parametrize("damage", ["truncated", "pickled", "pickled weights", "missing"])
def test_a_damaged_model(damage, bert, lines, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copied(bert, tmp_path / "model")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    if damage == "pickled":
        torch.save({"embeddings": Bomb()}, folder / "pytorch_model.bin")
    if damage == "pickled weights":
        torch.save(transformers.BertModel.from_pretrained(bert).state_dict(), folder / "pytorch_model.bin")
    assert refused(capsys, f"hf:{folder}", "--data", lines).startswith(f"hf:{folder} has no usable model in the folder: ")
    assert not Path("executed").exists()


def test_code_in_a_models_folder_is_not_run(bert, lines, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copied(bert, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    assert "has no usable model in the folder" in refused(capsys, f"hf:{folder}", "--data", lines)
    assert not Path("executed").exists()


def test_weights_missing_from_the_checkpoint_are_listed(bert, lines, tmp_path, capsys):
    folder = copied(bert, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    code, printed, _ = probe(capsys, f"hf:{folder}", "--data", lines)
    assert code == 0
    assert "missing from the checkpoint, so randomly initialised: pooler.dense.bias, pooler.dense.weight" in printed


def test_a_model_that_is_not_on_this_machine(lines, capsys):
    message = refused(capsys, "hf:sparseout/no-such-model", "--data", lines)
    assert message.startswith("hf:sparseout/no-such-model has no usable model in the hub's cache (`hf download")


def test_help_explains_every_flag(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["probe", "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for words in (
        "TARGET",
        "--data PATH ...",
        "--batches INT",
        "--layers NAME ...",
        "--html FILE",
        "--json FILE",
        "--before FILE",
    ):
        assert words in shown


def test_without_transformers_the_line_that_installs_it(bert, lines, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refused(capsys, f"hf:{bert}", "--data", lines) == "hf: needs transformers: pip install 'sparseout[probe]'"
