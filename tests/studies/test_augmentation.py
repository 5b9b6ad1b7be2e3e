"""Crops and flips equal reflection padding, cropping and mirroring of each image."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from sparseout.studies.data.augmentation import crop_and_flip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def crops(image, padding, flip):
    """All crops of one image `(height, width, channels)`."""
    height, width, _ = image.shape
    padded = F.pad(image.permute(2, 0, 1)[None].double(), [padding] * 4, mode="reflect")[0].permute(1, 2, 0)
    made = [padded[i : i + height, j : j + width].to(image.dtype) for i in range(2 * padding + 1) for j in range(2 * padding + 1)]
    return made + [crop.flip(1) for crop in made] if flip else made


@given(
    size=st.tuples(st.integers(0, 3), st.integers(2, 7), st.integers(2, 7), st.integers(1, 3)),
    padding=st.integers(0, 2),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 2**32),
)
def test_each_image_is_one_of_its_crops(size, padding, flip, dtype, seed):
    padding = min(padding, size[1] - 1, size[2] - 1)
    images = torch.randint(256, size, generator=seeded(seed)).to(dtype)
    before = images.clone()
    made = crop_and_flip(images, padding, flip, seeded(seed))
    assert made.shape == images.shape
    assert made.dtype is dtype
    assert torch.equal(images, before)
    assert all(
        any(torch.equal(got, crop) for crop in crops(image, padding, flip)) for got, image in zip(made, images, strict=True)
    )
    assert torch.equal(made, crop_and_flip(images, padding, flip, seeded(seed)))


@pytest.mark.parametrize("flip", [False, True])
def test_each_crop_is_as_likely_as_another(flip):
    image = torch.arange(25, dtype=torch.uint8).view(5, 5, 1)
    expected = crops(image, 1, flip)
    made = crop_and_flip(image.expand(9_000, 5, 5, 1), 1, flip, seeded())
    counts = torch.tensor([(made == crop).flatten(1).all(1).sum() for crop in expected])
    share = 9_000 / len(expected)
    assert counts.sum() == 9_000
    assert ((counts - share).abs() < 5 * share**0.5).all()


def test_nothing_to_do_changes_nothing():
    images = torch.randint(256, (6, 8, 8, 3), generator=seeded())
    assert torch.equal(crop_and_flip(images, 0, False, seeded()), images)
