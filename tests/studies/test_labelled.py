"""Labelled images, from valid and from damaged files."""

import io
import os
from pathlib import Path

import datasets
import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sparseout.errors import UserError
from sparseout.studies.data import classification, mnist


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def pictures(count, size=32, seed=0):
    return numpy.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=numpy.uint8)


def write(folder, images, labels, column="label", splits=("train", "test"), img="img"):
    rows = [{"bytes": picture if isinstance(picture, bytes) else png(picture), "path": None} for picture in images]
    for split in splits:
        pyarrow.parquet.write_table(pyarrow.table({img: rows, column: labels}), folder / f"{split}.parquet")


def test_digits_are_those_of_scikit_learn():
    images = classification.load("digits")
    values, labels = load_digits(return_X_y=True)
    assert images.classes == 10
    assert images.channels == 1
    assert len(images.valid) == 0
    everything = torch.cat([images.train.images, images.test.images])
    assert everything.shape == (1797, 8, 8, 1)
    assert everything.dtype is torch.uint8
    assert numpy.array_equal(everything.flatten(1), values)
    assert numpy.array_equal(torch.cat([images.train.labels, images.test.labels]), labels)
    assert len(images.test) == 360


@pytest.mark.parametrize(("name", "column", "classes"), [("cifar10", "label", 10), ("cifar100", "fine_label", 100)])
def test_cifar_is_read_from_the_hubs_layout(name, column, classes, tmp_path):
    train, test = pictures(9, seed=1), pictures(3, seed=2)
    labels = [0, classes - 1, 4, 3, 2, 1, 5, 6, 7]
    write(tmp_path, train, labels, column, ["train"])
    write(tmp_path, test, [1, 2, 3], column, ["test"])
    images = classification.load(name, tmp_path, 4, 2)
    assert images.classes == classes
    assert numpy.array_equal(images.train.images, train[:4])
    assert images.train.labels.tolist() == labels[:4]
    assert numpy.array_equal(images.valid.images, train[7:])
    assert images.valid.labels.tolist() == labels[7:]
    assert numpy.array_equal(images.test.images, test)
    everything = classification.load(name, tmp_path, valid_images=2)
    assert numpy.array_equal(everything.train.images, train[:7])


def test_images_are_normalised_by_those_to_learn_from(tmp_path):
    train = pictures(20, seed=1)
    write(tmp_path, train, [0] * 20)
    images = classification.load("cifar10", tmp_path, 8, 5)
    values = train[:8].astype(numpy.float64)
    expected = (train - values.mean((0, 1, 2))) / values.std((0, 1, 2))
    made = images.normalised(images.test.images)
    assert made.dtype is torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    numpy.testing.assert_allclose(made, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_a_channel_of_one_value_is_only_shifted(tmp_path):
    train = pictures(4)
    train[..., 1] = 77
    write(tmp_path, train, [0] * 4)
    assert not classification.load("cifar10", tmp_path).normalised(torch.from_numpy(train))[:, 1].any()


def test_an_unknown_name():
    with pytest.raises(UserError, match="dataset must be one of 'digits', 'cifar10', 'cifar100', got 'svhn'"):
        classification.load("svhn")


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"--data-dir must hold train\*.parquet or cifar10/train\*.parquet: .* has neither"):
        classification.load("cifar10", tmp_path)
    write(tmp_path, pictures(2), [0, 1], splits=["train"])
    with pytest.raises(UserError, match=r"--data-dir must hold test\*.parquet"):
        classification.load("cifar10", tmp_path)


def test_a_file_without_rows(tmp_path):
    write(tmp_path, pictures(2), [0, 1], splits=["train"])
    rows = pyarrow.parquet.read_table(tmp_path / "train.parquet")
    pyarrow.parquet.write_table(rows.slice(0, 0), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"test.parquet cannot be read as parquet, or is empty"):
        classification.load("cifar10", tmp_path)


def test_columns_that_are_missing(tmp_path):
    write(tmp_path, pictures(2), [0, 1])
    with pytest.raises(UserError, match="must have a column 'fine_label', got img, label"):
        classification.load("cifar100", tmp_path)
    write(tmp_path, pictures(2), [0, 1], img="image")
    with pytest.raises(UserError, match="must have a column 'img', got image, label"):
        classification.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (png(pictures(1, size=31)[0]), "row 2 has 31 x 31 x 3"),
        (png(numpy.zeros((32, 32), dtype=numpy.uint8)), "row 2 has 32 x 32"),
        (png(numpy.zeros((32, 32, 4), dtype=numpy.uint8)), "row 2 has 32 x 32 x 4"),
        (b"no picture", "cannot identify image file"),
    ],
)
def test_a_picture_of_another_kind(picture, found, tmp_path):
    write(tmp_path, [*pictures(2), picture, *pictures(2)], [0, 1, 2, 3, 4])
    wanted = "the column 'img' must hold encoded colour pictures of 32 x 32 x 3 values"
    with pytest.raises(UserError, match=f"{wanted}: {found}") as raised:
        classification.load("cifar10", tmp_path)
    assert "\n" not in str(raised.value)


def test_a_column_without_pictures(tmp_path):
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table({"img": [1, 2], "label": [0, 1]}), tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match="the column 'img' must hold encoded colour pictures"):
        classification.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("labels", "got"),
    [([0, 10], "10"), ([-1, 3], "-1"), ([0, None], "a NoneType"), ([0.0, 1.0], "a float"), (["a", "b"], "a str")],
)
def test_labels_that_are_none(labels, got, tmp_path):
    write(tmp_path, pictures(2), labels)
    with pytest.raises(UserError, match=rf"the column 'label' must hold integers in \[0, 9\], got {got}$"):
        classification.load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [((1438, 0), "train_images=1438 and valid_images=0"), ((0, 1437), "train_images=1 and valid_images=1437")],
)
def test_more_images_than_there_are(counts, wanted):
    with pytest.raises(UserError, match=f"{wanted} must add up to at most the 1437 training images"):
        classification.load("digits", None, *counts)


def test_the_hub_is_asked_for_cifar(monkeypatch, tmp_path):
    write(tmp_path, pictures(3), [0, 1, 2], "fine_label")
    asked = []

    def hub(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_parquet(str(tmp_path / f"{split}.parquet"))

    monkeypatch.setattr("datasets.load_dataset", hub)
    assert len(classification.load("cifar100", None).train) == 3
    assert asked == [("uoft-cs/cifar100", "train"), ("uoft-cs/cifar100", "test")]
    classification.load.cache_clear()
    assert set(mnist.HUB) >= set(classification.LABELS)


@pytest.mark.skipif("SPARSEOUT_DATA" not in os.environ, reason="SPARSEOUT_DATA names no folder with cifar10/")
def test_the_real_cifar10():
    images = classification.load("cifar10", Path(os.environ["SPARSEOUT_DATA"]))
    assert images.train.images.shape == (50000, 32, 32, 3)
    assert images.test.images.shape == (10000, 32, 32, 3)
    assert torch.bincount(images.train.labels).tolist() == [5000] * 10
    assert torch.bincount(images.test.labels).tolist() == [1000] * 10
    # The statistics that everyone normalises CIFAR-10 with; these pictures are JPEG.
    torch.testing.assert_close(images.mean / 255, torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=1e-3)
    torch.testing.assert_close(images.std / 255, torch.tensor([0.2470, 0.2435, 0.2616]), rtol=0, atol=2e-3)
