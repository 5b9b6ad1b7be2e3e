"""The choice of an implementation: what `backends()` lists, forced backends, and errors."""

import os
import subprocess
import sys

import pytest
import torch

import sparseout
from sparseout.native import library
from sparseout.op import backends, cpu, reference
from sparseout.op.settings import Settings

kernel_alone = pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING)


def test_backends_lists_what_there_is_and_why_not_the_rest(monkeypatch):
    cpu_line, gpu_line, reference_line = repr(sparseout.backends()).splitlines()
    assert cpu_line.startswith(
        "cpu        CPU tensors: compiled kernel" if library.LIBRARY else "cpu        unavailable: there is no"
    )
    assert gpu_line == f"gpu        unavailable: {backends.gpu.MISSING}" if backends.gpu.MISSING else "GPU tensors" in gpu_line
    assert reference_line == "reference  all other tensors: plain torch"
    monkeypatch.setattr(backends, "AVAILABLE", ())
    monkeypatch.setattr(backends, "MISSING", "no compiler")
    monkeypatch.setattr(backends, "ASKED", "reference")
    lines = repr(sparseout.backends()).splitlines()
    assert "unavailable: no compiler</td>" in sparseout.backends()._repr_html_()
    assert lines[0] == "cpu        unavailable: no compiler"
    assert lines[-1] == "SPARSEOUT_BACKEND=reference forces 'reference'"


def test_without_a_compiled_kernel_the_reference_takes_over(monkeypatch):
    x = torch.randn(50)
    monkeypatch.setattr(backends, "MISSING", "there is no compiled kernel")
    assert backends.choose(x) == "reference"
    ours = sparseout.sparseout(x, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ours, sparseout.sparseout(x, 0.5, 1.5, backend="reference", generator=torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="backend is 'cpu', which cannot be used here: there is no compiled kernel"):
        sparseout.sparseout(x, backend="cpu")


def test_the_environment_forces_a_backend(monkeypatch):
    program = """
import importlib, os, torch
from sparseout.op import backends
print(backends.ASKED, backends.choose(torch.ones(3)))
os.environ["SPARSEOUT_BACKEND"] = ""
print(importlib.reload(backends).ASKED)
"""
    environment = {**os.environ, "SPARSEOUT_BACKEND": "reference"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["reference reference", "None"], done.stderr
    for backend, reason in (
        ("gpu", "is 'gpu', which cannot be used here: input is on cpu"),
        ("fast", "must be one of 'cpu', 'gpu'"),
    ):
        monkeypatch.setattr(backends, "ASKED", backend)
        with pytest.raises(ValueError, match=f"the environment variable SPARSEOUT_BACKEND {reason}"):
            sparseout.sparseout(torch.ones(3))


@kernel_alone
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_calls_own_backend_comes_first(monkeypatch, backend):
    monkeypatch.setattr(backends, "ASKED", "gpu")
    assert backends.choose(torch.ones(3), backend) == backend


def test_a_lazily_negated_tensor_is_read_right():
    x = torch.complex(torch.ones(40), torch.arange(40.0)).conj().imag.requires_grad_()
    assert x.is_neg()
    y = sparseout.sparseout(x, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    drawn = int(torch.randint(2**63 - 1, (1,), generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(y, reference.forward(-torch.arange(40.0), drawn, Settings(0.5, 1.5)))


@kernel_alone
def test_writing_in_place_is_seen_by_autograd():
    x = torch.randn(30, requires_grad=True)
    hidden = x * 2
    saved = hidden.square()
    assert sparseout.sparseout(hidden, 0.5, 2.0, inplace=True) is hidden
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="leaf"):
        sparseout.sparseout(x, 0.5, 2.0, inplace=True)
    assert torch.equal(x, before)
    with pytest.raises(RuntimeError, match="single memory location"):
        sparseout.sparseout(torch.ones(1).expand(5), 0.5, 2.0, inplace=True)
    with torch.inference_mode():
        inference = torch.ones(100)
        assert sparseout.sparseout(inference, 0.5, 1.5, inplace=True) is inference
        assert inference.unique().numel() == 2
    sparseout.sparseout(torch.ones(3))


@kernel_alone
def test_writing_in_place_allocates_no_second_tensor():
    hidden = torch.ones(100, requires_grad=True) * 1
    address = hidden.data_ptr()
    calls = []
    forward = cpu.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "forward", lambda *a: calls.append(a[-1]) or forward(*a))
        sparseout.sparseout(hidden, 0.5, 1.5, inplace=True)
    assert [output.data_ptr() for output in calls] == [address]
