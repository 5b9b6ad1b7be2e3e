"""The GPU kernel's indices and offsets, the strides of a launch, and the reasons for a missing kernel."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from test_reference import word_in_python
from torch.torch_version import TorchVersion

from sparseout.op import gpu

triton = pytest.importorskip("triton", minversion="3.3", reason="triton 3.3 is not installed")
tl = pytest.importorskip("triton.language")
from test_gpu import DEVICE, SEEDS, examples, forward  # noqa: E402

from sparseout.op.gpu_kernel import kept_at, kept_in_block, offset_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # from NumPy in the interpreter


def test_what_is_missing_is_said_in_words(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    for cuda, version, spec, reason in (
        (None, "2.13.0", "triton", "this build of torch is for the CPU only"),
        ("13.0", "2.13.0", None, "triton is not installed"),
        ("12.4", "2.6.0", "triton", "it needs torch 2.7 or later, for Triton 3.3; this is 2.6.0"),
        ("12.6", "2.10.1", "triton", ""),
    ):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        monkeypatch.setattr("importlib.util.find_spec", lambda name, spec=spec: spec)
        assert gpu._why_missing() == reason


def test_the_walk_is_one_dimension_where_it_can_be_and_knows_how_far_it_reaches():
    def walk(shape, *strides):
        return gpu._walk(shape, strides, ())

    assert walk((4, 1, 5), (5, 7, 1), (5, 9, 1)) == ((20,), ((), ()), 20)
    assert walk((4, 1, 5), (1, 7, 4), (1, 9, 4)) == ((4, 5), ((), (5, 1)), 20)
    assert walk((2**16, 2**15), (2**15, 1), (2**15, 1)) == ((2**31,), ((), ()), 2**31)
    assert walk((2, 3), (3, 1), (2**40, 2)) == ((3, 2), ((2, 2**40), ()), 2**40 + 5)
    assert walk((), (), ()) == ((), ((), ()), 1)


@examples
@given(seed=SEEDS, place=st.integers(0, 99))
def test_p_is_compared_with_all_32_bits(seed, place):
    word = word_in_python(place, seed)
    x = torch.ones(100, device=DEVICE)
    assert forward(x, word / 2**32, 1.7, seed)[place] > 0.5
    assert forward(x, (word + 0.75) / 2**32, 1.7, seed)[place] < 0.5


@triton.jit
def _far_masks(in_block, at, seed, block, threshold, block_size: tl.constexpr):
    from_block = kept_in_block(tl.load(seed), tl.load(block), tl.load(threshold).to(tl.uint64), block_size)
    tl.store(in_block + tl.arange(0, block_size), from_block)
    index = tl.load(block) * block_size + tl.arange(0, block_size)
    tl.store(at + tl.arange(0, block_size), kept_at(tl.load(seed), index, tl.load(threshold).to(tl.uint64)))


@examples
@given(block=st.integers(0, 2**50) | st.sampled_from([2**24 - 1, 2**24, 2**27, 2**28]), seed=SEEDS, data=st.data())
def test_the_index_rule_holds_for_any_index(block, seed, data):
    words = [word_in_python(index, seed) for index in range(block * 128, block * 128 + 128)]
    threshold = data.draw(st.sampled_from([*words, *(word + 1 for word in words), 0, 2**32]))
    results = [torch.zeros(128, dtype=torch.bool, device=DEVICE) for _ in range(2)]
    _far_masks[(1,)](*results, *(torch.tensor([number], device=DEVICE) for number in (seed, block, threshold)), block_size=128)
    for result in results:
        assert result.tolist() == [word >= threshold for word in words]


@triton.jit
def _far_offset(offset, position, sizes, strides):
    tl.store(offset, offset_of(tl.load(position), sizes, strides))


@examples
@given(
    sizes=st.lists(st.integers(2, 2**33), min_size=1, max_size=3),
    strides=st.lists(st.integers(0, 2**20), min_size=3, max_size=3),
    data=st.data(),
)
def test_an_offset_has_64_bits(sizes, strides, data):
    coordinates = [data.draw(st.integers(0, size - 1)) for size in sizes]
    position = sum(c * math.prod(sizes[:dim]) for dim, c in enumerate(coordinates))
    assume(position < 2**62)
    offset = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    _far_offset[(1,)](offset, torch.tensor([position], device=DEVICE), tuple(sizes), tuple(strides[: len(sizes)]))
    assert offset.item() == sum(c * stride for c, stride in zip(coordinates, strides, strict=False))
