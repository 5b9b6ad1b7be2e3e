"""The GPU kernel as Triton compiles it, which needs no GPU; and tests that need one, skipped elsewhere."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from test_reference import word_in_python
from tolerances import DTYPES

from sparseout import Sparseout
from sparseout.op import gpu, reference
from sparseout.op.settings import Settings

pytest.importorskip("triton", minversion="3.3", reason="triton 3.3 is not installed")

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class OneH100:
    """A stand-in for the driver of an H100, with all that the compiler uses."""

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def both_passes(x, p, q, eps=1e-6, shared_dims=(), scale=1.0):
    seed = torch.tensor([1], device=x.device)
    gpu.forward(x, seed, Settings(p, q, scale=scale, shared_dims=shared_dims))
    gpu.backward(x.contiguous(), x, seed, Settings(p, q, scale, "exact", eps, shared_dims))


def _compile_for_an_h100(dtypes):
    """Return the PTX of every path, and the number of kernels for many settings. Call it in a process without the interpreter."""
    import triton

    kernels = []

    def compile_alone(kernel, grid):
        return lambda *args, **options: kernels.append(kernel.warmup(*args, grid=grid, **options))

    triton.runtime.driver.set_active(OneH100())
    triton.KernelInterface.__getitem__ = compile_alone
    for dtype in dtypes:
        for q in (1.7, 2.0):
            both_passes(torch.zeros(4096, dtype=dtype), 0.5, q)
    for q in (0.0, 0.5, 1.0, 3.5):
        both_passes(torch.zeros(4096), 0.5, q)
    dense = [kernel.asm["ptx"] for kernel in kernels]
    for narrow in (gpu._NARROW, 0):
        gpu._NARROW = narrow
        both_passes(torch.zeros(4, 5, 6).permute(2, 0, 1), 0.5, 2.0)
        both_passes(torch.zeros(4, 5, 6)[..., 1:], 0.5, 1.7, shared_dims=(1,))
    strided = [kernel.asm["ptx"] for kernel in kernels[len(dense) :]]
    kernels.clear()
    for p in (1e-12, 2**-28, 0.25, 0.5, 0.9, 1 - 1e-12):
        for q in (0.1, 1.7, 1e10):
            for eps, scale in ((5e-324, 1.0), (1e-6, 0.3), (1.0, 1e30)):
                both_passes(torch.zeros(4096), p, q, eps, scale=scale)
    numbers = len(set(map(id, kernels)))
    kernels.clear()
    for dtype in dtypes:
        for q in (1.0, 1.7):
            both_passes(torch.zeros(4096, dtype=dtype), 0.5, q, scale=torch.ones(()))
    return dense, strided, numbers, [kernel.asm["ptx"] for kernel in kernels]


@pytest.fixture(scope="module", params=[[torch.float32], pytest.param(DTYPES, marks=pytest.mark.slow)], ids=["float32", "all"])
def compiled(tmp_path_factory, request):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_compile_for_an_h100, request.param).result()


def test_every_path_compiles(compiled):
    dense, strided, _, scaled = compiled
    dtypes = (len(dense) - 8) // 4
    assert dtypes in (1, 4)
    assert [".entry kernel" in ptx for ptx in dense + strided + scaled] == [True] * (4 * dtypes + 8 + 8 + 4 * dtypes)


def test_multiples_of_a_half_need_no_exponential(compiled):
    assert ["ex2." in ptx for ptx in compiled[0][-8:]] == [False] * 8


def test_64_bit_offsets_are_a_kernel_of_their_own(compiled):
    strided = compiled[1]
    assert not set(strided[:4]) & set(strided[4:])


def test_a_dense_tensor_is_read_and_written_in_16_bytes_at_a_time(compiled):
    for ptx in compiled[0]:
        assert "ld.global.v4.b32" in ptx or "ld.global.v2.b64" in ptx
        assert "st.global.v4.b32" in ptx or "st.global.v2.b64" in ptx
        assert ".local" not in ptx


def test_new_numbers_compile_nothing(compiled):
    assert compiled[2] == 2  # a forward pass and a backward pass


@on_gpu
@pytest.mark.parametrize("q", [1.0, 1.7, 2.0])
def test_nothing_waits_for_the_gpu(q):
    inputs = [(torch.randn(32, 64, 9, 9, device="cuda"), dims) for dims in ((), (2, 3))]
    inputs.append((inputs[0][0].to(memory_format=torch.channels_last), ()))
    seed, scale = torch.tensor([1], device="cuda"), torch.tensor(0.3, device="cuda")
    layers = [Sparseout(0.5, q, scale=scale) for scale in ("rms", "matched")]

    def run():
        for x, dims in inputs:
            gpu.forward(x, seed, Settings(0.5, q, scale=scale, shared_dims=dims))
            gpu.backward(x, x, seed, Settings(0.5, q, scale=scale, shared_dims=dims))
            for layer in layers:
                layer(x)

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu
def test_a_captured_graph_replays_with_the_seed_that_is_there_then():
    x, seed = torch.full((10_000,), 4.0, device="cuda"), torch.tensor([1], device="cuda")
    gpu.forward(x, seed, Settings(0.3, 1.7))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = gpu.forward(x, seed, Settings(0.3, 1.7))
    for number in (2, -3):
        seed.fill_(number)
        graph.replay()
        assert torch.equal((y > 4).cpu(), reference.keep_mask(x.shape, 0.3, number))


@on_gpu
@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
def test_more_than_2_to_the_31_elements(transposed):
    rows, columns = 2**16, 2**15 + 32
    x = torch.ones(1, 1, dtype=torch.float16, device="cuda").expand(columns, rows).contiguous().t()
    x = x if transposed else x.contiguous()
    y = gpu.forward(x, torch.tensor([7], device="cuda"), Settings(0.5, 2.0))
    for row in (0, rows // 2, rows - 1):
        expected = [word_in_python(row * columns + column, 7) >= 2**31 for column in range(500)]
        assert (y[row, :500] != 0).tolist() == expected
