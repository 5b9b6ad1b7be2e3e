"""Models and data that `sparseout probe` refuses, in one line that names the missing, damaged or pickled file."""

import json
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sparseout.cli.main import main
from sparseout.cli.probe import files
from sparseout.errors import UserError

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "sat", "on", "the", "mat"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), **SIZES)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def model(bert, tmp_path):
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("the cat sat on the mat\n")
    return path


def refused(capsys, *arguments):
    code = main(["probe", *map(str, arguments)])
    _, error = capsys.readouterr()
    assert (code, error.count("\n")) == (2, 1), error
    return error.removeprefix("sparseout: ").rstrip()


def test_a_model_saved_without_its_tokenizer(model, lines, tmp_path, capsys):
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink(missing_ok=True)
    out = tmp_path / "summary.json"
    error = refused(capsys, f"hf:{model}", "--data", lines, "--json", out)
    assert error == f"{model} has no tokenizer: tokenizer.json or vocab.txt is missing"
    assert not out.exists()


def test_a_gpt2_saved_without_its_tokenizer(lines, tmp_path, capsys):
    config = transformers.GPT2Config(vocab_size=11, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    error = refused(capsys, f"hf:{tmp_path / 'gpt2'}", "--data", lines)
    assert error == f"{tmp_path / 'gpt2'} has no tokenizer: tokenizer.json or vocab.json or merges.txt is missing"


def test_a_vocabulary_that_does_not_know_the_text(model, lines, capsys):
    lines.write_text("zehn kleine jägermeister\n" * 3)
    error = refused(capsys, f"hf:{model}", "--data", lines)
    assert error.startswith(f"the tokenizer of {model} does not know 9 of the first 9 tokens of the text, which become [UNK]")
    lines.write_text("the cat sat on the sofa\n")
    assert main(["probe", f"hf:{model}", "--data", str(lines)]) == 0
    assert "does not know 1 of the first 6 tokens of the text" in capsys.readouterr().out


def test_a_model_saved_without_its_image_processor(tmp_path, capsys):
    transformers.ViTModel(transformers.ViTConfig(**SIZES, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    error = refused(capsys, f"hf:{tmp_path / 'vit'}", "--data", tmp_path / "a.png")
    assert error == f"{tmp_path / 'vit'} has no image processor: preprocessor_config.json is missing"


def shard(model, name, pickled=False):
    """The model's weights in a file called `name`, which an index names."""
    weights = load_file(model / "model.safetensors")
    if pickled:
        torch.save(weights, model / "shard.bin")
    (model / "model.safetensors").rename(model / "whole.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_of_safetensors_files_is_taken(model, lines, capsys):
    shard(model, "whole.safetensors")
    assert main(["probe", f"hf:{model}", "--data", str(lines)]) == 0
    assert "random" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["shard.bin", "../model/whole.safetensors", "sub/whole.safetensors", "ABSOLUTE", 7])
def test_an_index_that_names_anything_but_safetensors_beside_it(name, model, lines, capsys):
    shard(model, str(model / "whole.safetensors") if name == "ABSOLUTE" else name, pickled=True)
    error = refused(capsys, f"hf:{model}", "--data", lines)
    assert error.startswith(f"{model / 'model.safetensors.index.json'}: weight_map[")
    assert "must name a file *.safetensors in the same folder, as pickles are refused, got " in error


def test_an_index_that_names_a_file_that_is_missing(model, lines, capsys):
    shard(model, "other.safetensors")
    error = refused(capsys, f"hf:{model}", "--data", lines)
    assert error == f"{model / 'model.safetensors.index.json'} names other.safetensors, which is not in {model}"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', "[" * 3000])
def test_an_index_that_is_garbage(content, model, lines, capsys):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(content)
    assert refused(capsys, f"hf:{model}", "--data", lines).startswith(str(model / "model.safetensors.index.json"))


@pytest.mark.parametrize("way", ["renamed", "linked", "config", "adapter"])
def test_a_pickle_is_refused_however_it_is_named(way, model, lines, capsys):
    weights = model / "model.safetensors"
    torch.save(load_file(weights), model / "adapter_model.bin")
    if way in ("renamed", "linked"):
        weights.unlink()
    if way == "renamed":
        (model / "adapter_model.bin").rename(weights)
    elif way == "linked":
        weights.symlink_to(model / "adapter_model.bin")
    elif way == "config":
        settings = json.loads((model / "config.json").read_text()) | {"transformers_weights": "adapter_model.bin"}
        (model / "config.json").write_text(json.dumps(settings))
    else:
        (model / "adapter_config.json").write_text('{"base_model_name_or_path": "x", "peft_type": "LORA"}')
    error = refused(capsys, f"hf:{model}", "--data", lines)
    assert str(model) in error


def test_a_pickle_that_is_not_read_does_no_harm(model, lines, capsys):
    for name in ("adapter_model.bin", "pytorch_model.bin"):
        (model / name).write_bytes(b"not even a pickle")
    assert main(["probe", f"hf:{model}", "--data", str(lines)]) == 0
    assert "random" not in capsys.readouterr().out


def test_code_of_a_known_models_own_is_not_run_and_said(model, lines, capsys):
    settings = json.loads((model / "config.json").read_text()) | {"auto_map": {"AutoModel": "mine.Model"}}
    (model / "config.json").write_text(json.dumps(settings))
    (model / "mine.py").write_text("raise SystemExit('executed')\n")
    assert main(["probe", f"hf:{model}", "--data", str(lines)]) == 0
    assert "custom code (auto_map), which is not run" in capsys.readouterr().out


def test_an_array_that_claims_petabytes(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (20000000, 20000000), }"
    padded = header.ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded + b"\0" * 48)
    with pytest.raises(UserError, match=r"a.npy cannot be read as a .npy array of numbers: "):
        files.read_array(tmp_path / "a.npy")


@pytest.mark.parametrize("values", [numpy.array(["a"]), numpy.array([(1, 2.0)], dtype="i4,f8"), numpy.array([1], dtype="M8[s]")])
def test_an_array_of_other_things(values, tmp_path):
    numpy.save(tmp_path / "a.npy", values)
    with pytest.raises(UserError, match=r"a.npy cannot be read as a .npy array of numbers: "):
        files.read_array(tmp_path / "a.npy")


def test_several_arrays_in_one_file(tmp_path):
    numpy.savez(tmp_path / "a.npz", numpy.ones(3))
    with pytest.raises(UserError, match=r"a.npz cannot be read as a .npy array of numbers: "):
        files.read_array(tmp_path / "a.npz")


def test_a_picture_that_claims_gigapixels(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match="a.png cannot be read as an image: "):
        files.read_image(tmp_path / "a.png")


def test_a_truncated_picture(tmp_path):
    Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for cut in range(len(content) // 2):
        (tmp_path / "a.png").write_bytes(content[:cut])
        with pytest.raises(UserError, match="a.png cannot be read as an image: "):
            files.read_image(tmp_path / "a.png")


@pytest.mark.parametrize("content", [b"a \0 b", b"\xff\xfe", b"x" * 4_000_001])
def test_a_file_that_is_not_text(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match="a.txt "):
        files.read_lines([tmp_path / "a.txt"])


def test_a_device_file_is_refused():
    with pytest.raises(UserError, match="--data must name files or folders that exist, got " + os.devnull):
        files.list_files([Path(os.devnull)])
