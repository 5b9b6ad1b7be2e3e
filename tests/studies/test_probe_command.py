"""`sparseout probe` as a person meets it: real models, real files, and mistakes told in one line."""

import json
import os
import pickle
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from sparseout import Probe
from sparseout.cli.main import main
from sparseout.probe import Summary
from sparseout.runs.load import load_run
from sparseout.studies import autoencoder

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


def probe(capsys, *arguments):
    code = main(["probe", *map(str, arguments)])
    return code, *capsys.readouterr()


def refused(capsys, *arguments):
    """The one line that a mistake is told in."""
    code, _, err = probe(capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1), err
    return err.removeprefix("sparseout: ").rstrip()


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
    assert "not seen: encoder.layer.0.attention.self.dropout" in printed
    assert f"Report: {page}" in printed
    assert "the cat sat" not in page.read_text()


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
    assert "Before, after, and the difference" in page.read_text()


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
    assert "broken.png cannot be read as a picture" in message
    (tmp_path / "pictures" / "words.txt").write_text("no picture")
    assert "must be pictures or text, not both" in refused(capsys, f"hf:{tmp_path / 'vit'}", "--data", tmp_path / "pictures")


FACTORY = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU())

def batches():
    return model(), (torch.ones(2, 4) for _ in range(3))

def named():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, a, b):
            return self.act(a + b)

    return Named(), [{"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, (torch.ones(1, 3), torch.ones(1, 3))]

def nothing():
    return model(), []

def number():
    return 3

def fails():
    raise LookupError("no weights\\nat all")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield "my_models"
    sys.modules.pop("my_models", None)


def test_a_factory_of_the_users_own(module, tmp_path, capsys):
    for factory, vectors in (("batches", 6), ("named", 3)):
        assert probe(capsys, f"{module}:{factory}", "--json", tmp_path / "s.json")[0] == 0
        assert Summary.read(tmp_path / "s.json").layers[0].vectors == vectors
    numpy.save(tmp_path / "samples.npy", numpy.ones((70, 4), dtype=numpy.float32))
    assert probe(capsys, f"{module}:model", "--data", tmp_path / "samples.npy", "--json", tmp_path / "s.json")[0] == 0
    assert Summary.read(tmp_path / "s.json")["1"].vectors == 70
    assert Summary.read(tmp_path / "s.json").forwards["eval"]["seen"] == 3


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_what_is_wrong_with_a_factory(module, tmp_path, capsys):
    assert refused(capsys, f"{module}:modle").endswith("has no function 'modle': did you mean model?")
    assert refused(capsys, f"{module}:torch").endswith("has no function 'torch'")
    assert refused(capsys, f"{module}:model").endswith(
        "returns a model alone: give its input with --data, a .npy file of samples"
    )
    assert "must return a torch.nn.Module, or one and its batches, got int" in refused(capsys, f"{module}:number")
    assert refused(capsys, f"{module}:fails").startswith("my_models:fails() failed: LookupError: ")
    assert "my_models.py:" in refused(capsys, f"{module}:fails")
    assert refused(capsys, f"{module}:nothing") == "the target gives no batch to run the model on"
    assert refused(capsys, "no_models:x").startswith("there is no module 'no_models': TARGET must be hf:NAME_OR_FOLDER")
    assert (
        refused(capsys, "no_models") == "TARGET must be hf:NAME_OR_FOLDER, package.module:factory or run:FOLDER, got 'no_models'"
    )
    numpy.save(tmp_path / "wide.npy", numpy.ones((2, 5), dtype=numpy.float32))
    message = refused(capsys, f"{module}:model", "--data", tmp_path / "wide.npy")
    assert message.startswith("the model cannot run on this data: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    (tmp_path / "fails_at_import.py").write_text("import torch\nraise OSError('no disk')")
    assert refused(capsys, "fails_at_import:model").startswith("fails_at_import cannot be imported: OSError: no disk (")


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(Bomb()), None])
def test_an_array_is_not_unpickled(content, module, tmp_path, capsys):
    if content is None:
        numpy.save(tmp_path / "samples.npy", numpy.array([Bomb()], dtype=object), allow_pickle=True)
    else:
        (tmp_path / "samples.npy").write_bytes(content)
    message = refused(capsys, f"{module}:model", "--data", tmp_path / "samples.npy")
    assert "samples.npy cannot be read as an array of numbers in .npy" in message
    assert not (tmp_path / "executed").exists()


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
        (["--before", "missing.json"], "--before must be a summary that --json wrote: "),
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


def copied(folder, to):
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


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


def test_weights_that_the_checkpoint_lacks_are_told(bert, lines, tmp_path, capsys):
    folder = copied(bert, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "pooler" not in name}, folder / "model.safetensors")
    code, printed, _ = probe(capsys, f"hf:{folder}", "--data", lines)
    assert code == 0
    assert "not in the checkpoint, so random: pooler.dense.bias, pooler.dense.weight" in printed


def test_a_model_that_is_not_on_this_machine(lines, capsys):
    message = refused(capsys, "hf:sparseout/no-such-model", "--data", lines)
    assert message.startswith("hf:sparseout/no-such-model has no usable model in the hub's cache (`hf download")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    arguments = ["study", "autoencoder", "--q", "1", "--seed", "0", "--hidden-size", "32", "--epochs", "3", "--out", str(out)]
    assert main(arguments) == 0
    return next(out.glob("q1*"))


def test_a_model_that_a_study_trained(study, tmp_path, capsys):
    out, page = tmp_path / "summary.json", tmp_path / "report.html"
    assert probe(capsys, f"run:{study}", "--json", out, "--html", page)[0] == 0
    record = json.loads((study / "summary.json").read_text())["layers"]["noise"]
    found = Summary.read(out)["noise"]
    assert (found.vectors, found.units, found.value) == (record["vectors"], record["units"], "clean input")
    for measure in ("hoyer", "zeros", "rms"):
        assert getattr(found, measure) == pytest.approx(record[measure], rel=1e-6)
    assert "Over training" in page.read_text()


def test_a_trained_model_again(study):
    run = load_run(study)
    assert run.config.hidden == 32
    assert isinstance(run.network, autoencoder.Autoencoder)
    assert sum(map(len, run.study.test_batches(run.data))) == 360
    assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3]


@pytest.mark.parametrize("damage", ["unfinished", "weights", "pickle", "config", "settings", "another study", "of another size"])
def test_a_run_that_is_none(damage, study, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copied(study, tmp_path / "run")
    settings = json.loads((folder / "config.json").read_text())
    changes = {
        "unfinished": lambda: (folder / "summary.json").unlink(),
        "weights": lambda: (folder / "weights.safetensors").write_bytes(b"nonsense"),
        "pickle": lambda: torch.save({"encoder": Bomb()}, folder / "weights.safetensors"),
        "config": lambda: (folder / "config.json").write_text("{"),
        "settings": lambda: (folder / "config.json").write_text(json.dumps({**settings, "p": 7})),
        "another study": lambda: (folder / "config.json").write_text(json.dumps({**settings, "study": "other"})),
        "of another size": lambda: (folder / "config.json").write_text(json.dumps({**settings, "hidden_size": 33})),
    }
    changes[damage]()
    messages = {
        "unfinished": "must be the folder of a complete run",
        "weights": "are no weights of this run",
        "pickle": "are no weights of this run",
        "config": "config.json cannot be read",
        "settings": "config.json: p must be a drop probability in [0, 1], got 7",
        "another study": "must be of a study that is known, got 'other'",
        "of another size": "config.json was edited: run is",
    }
    assert messages[damage] in refused(capsys, f"run:{folder}")
    assert not Path("executed").exists()


def test_a_run_has_one_folder_of_data(study, capsys):
    assert "--data must be one folder for run:" in refused(capsys, f"run:{study}", "--data", "a", "b")


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


def test_nothing_is_left_of_the_working_folder_on_the_path(module, capsys):
    before = list(sys.path)
    probe(capsys, f"{module}:batches")
    assert sys.path == before
    assert os.getcwd() not in sys.path or os.getcwd() in before
    assert isinstance(sys.modules["my_models"].model(), nn.Module)
