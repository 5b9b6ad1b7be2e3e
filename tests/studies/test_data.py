"""Images for the autoencoder, from valid and from damaged files."""

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from sparseout.errors import UserError
from sparseout.studies.data import mnist


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def write_split(path, pictures):
    rows = [{"bytes": picture, "path": None} for picture in pictures]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": [0] * len(rows)}), path)


def pictures(count, size=28, seed=0):
    return numpy.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=numpy.uint8)


def test_digits():
    images = mnist.load("digits")
    assert images.train.shape == (1437, 64)
    assert images.test.shape == (360, 64)
    assert images.train.min() == 0
    assert images.train.max() == 1


def test_the_digits_are_read_without_the_import_of_scikit_learn():
    program = "import sys; from sparseout.studies.data import mnist; mnist.load('digits'); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(("name", "package", "extra"), [("digits", "scikit-learn", "studies"), ("mnist", "datasets", "data")])
def test_a_data_set_whose_package_is_missing_names_its_extra(name, package, extra, tmp_path, monkeypatch):
    mnist._digits.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=rf"^the data set {name} needs {package}: pip install 'sparseout\[{extra}\]'$"):
        mnist.load(name, tmp_path)


@pytest.mark.parametrize(
    "names", [("train.parquet", "test.parquet"), ("mnist/train-00000-of-00001.parquet", "mnist/test.parquet")]
)
def test_mnist_is_read_from_the_hubs_layout(names, tmp_path):
    expected = {"train": pictures(7, seed=1), "test": pictures(3, seed=2)}
    for name, split in zip(names, ("train", "test"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_split(tmp_path / name, [png(picture) for picture in expected[split]])
    images = mnist.load("mnist", tmp_path)
    assert torch.equal(images.train, torch.from_numpy(expected["train"].reshape(7, 784)).float() / 255)
    assert torch.equal(images.test, torch.from_numpy(expected["test"].reshape(3, 784)).float() / 255)


def test_an_unknown_name():
    with pytest.raises(UserError, match="dataset must be one of 'digits', 'mnist', got 'emnist'"):
        mnist.load("emnist")


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"--data-dir must hold train\*.parquet or mnist/train\*.parquet: .* has neither"):
        mnist.load("mnist", tmp_path)


def test_a_file_that_is_not_parquet(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(UserError, match=r"train.parquet cannot be read as parquet, or is empty: ") as raised:
        mnist.load("mnist", tmp_path)
    assert "\n" not in str(raised.value)


def test_a_truncated_parquet_file(tmp_path):
    for split in ("train", "test"):
        write_split(tmp_path / f"{split}.parquet", [png(picture) for picture in pictures(50)])
        content = (tmp_path / f"{split}.parquet").read_bytes()
        (tmp_path / f"{split}.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as parquet, or is empty"):
        mnist.load("mnist", tmp_path)


def test_a_column_that_is_missing(tmp_path):
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table({"img": [1]}), tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match="must have a column 'image', got img"):
        mnist.load("mnist", tmp_path)


@pytest.mark.parametrize(
    "picture", [b"not a picture", png(pictures(1, size=27)[0]), png(numpy.zeros((28, 28, 3), dtype=numpy.uint8))]
)
def test_pictures_that_are_not_mnists(picture, tmp_path):
    for split in ("train", "test"):
        write_split(tmp_path / f"{split}.parquet", [picture])
    with pytest.raises(UserError, match="the column 'image' must hold encoded grey pictures of 28 x 28 values"):
        mnist.load("mnist", tmp_path)


def test_no_network_and_no_folder(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(mnist.HUB, "mnist", "sparseout/no-such-data-set")
    with pytest.raises(UserError, match="mnist could not be loaded from the hub .*: give --data-dir"):
        mnist.load("mnist")


@pytest.mark.skipif("SPARSEOUT_DATA" not in os.environ, reason="SPARSEOUT_DATA names no folder with mnist/")
def test_the_real_mnist():
    images = mnist.load("mnist", Path(os.environ["SPARSEOUT_DATA"]))
    assert images.train.shape == (60000, 784)
    assert images.test.shape == (10000, 784)
    assert images.train.mean() == pytest.approx(0.1307, abs=1e-4)
    assert images.test.mean() == pytest.approx(0.1325, abs=1e-4)


def test_parquet_that_claims_more_than_any_data_set_has(tmp_path, monkeypatch):
    rows = pyarrow.table({"image": pyarrow.array(["x"] * 5)})
    pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
    for limit, value in (("MAX_ROWS", 4), ("MAX_BYTES", 10)):
        with monkeypatch.context() as patch:
            patch.setattr(mnist, limit, value)
            with pytest.raises(
                UserError, match=r"train.parquet must be a parquet file that declares at most .*, got 5 rows and \d+ bytes"
            ):
                mnist.read_split("mnist", "train", tmp_path)


@pytest.mark.parametrize("bomb", ["header", "palette", "sixteen bits"])
def test_a_picture_is_measured_before_it_is_decompressed(bomb, tmp_path):
    file = io.BytesIO()
    if bomb == "header":
        Image.new("L", (28, 28)).save(file, format="PNG")
        content = bytearray(file.getvalue())
        content[16:24] = (60_000).to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    else:
        Image.new({"palette": "P", "sixteen bits": "I;16"}[bomb], (28, 28)).save(file, format="PNG")
        content = file.getvalue()
    rows = [{"bytes": bytes(content), "path": None}]
    pyarrow.parquet.write_table(pyarrow.table({"image": rows}), tmp_path / "train.parquet")
    found = "exceeds limit|has 60000 x 60000" if bomb == "header" else "row 0 has the mode '(P|I;16)', not 'L'"
    with pytest.raises(UserError, match=rf"train.parquet: the column 'image' must hold encoded grey pictures.*({found})"):
        mnist.load("mnist", tmp_path)


def test_a_cache_that_cannot_be_written_is_not_the_fault_of_the_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    for split in ("train", "test"):
        write_split(tmp_path / f"{split}.parquet", [png(picture) for picture in pictures(3)])
    expected = f"HF_DATASETS_CACHE must be a folder that can be written: {tmp_path / 'file' / 'cache'}: Not a directory"
    with pytest.raises(UserError) as raised:
        mnist.load("mnist", tmp_path)
    assert str(raised.value) == expected
