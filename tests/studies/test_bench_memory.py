"""The peak of the memory of a call."""

import subprocess
import sys

import pytest
import torch

from sparseout.bench.memory import peak_bytes
from sparseout.bench.models import MODELS
from sparseout.bench.steps import Contender, Step

CPU = torch.device("cpu")
SIZE = 1 << 18  # elements


def test_freed_memory_counts_once():
    def three_tensors_two_at_a_time():
        first = torch.ones(SIZE)
        second = first.neg()
        del first
        return second.neg()

    assert peak_bytes(three_tensors_two_at_a_time, CPU) == pytest.approx(2 * 4 * SIZE, abs=1000)


def test_what_is_kept_for_the_backward_pass_counts():
    noise = torch.rand(SIZE)

    def backward():
        x = torch.ones(SIZE, requires_grad=True)
        (x * noise).sum().backward()

    assert peak_bytes(backward, CPU) >= 2 * 4 * SIZE


@pytest.mark.parametrize("q", [1.5, 2.0])
def test_sparseout_needs_no_more_than_dropout(q):
    """At q = 2 the layer keeps no mask; elsewhere it keeps its input, which the next layer may not need."""
    none, dropout, sparseout = (
        Step(MODELS["mlp"], each.layer, CPU) for each in (Contender("none"), Contender("dropout"), Contender("sparseout", q))
    )
    for step in (none, dropout, sparseout):
        step()  # the optimizer makes its state
    peaks = [step.peak() for step in (none, dropout, sparseout)]
    assert peaks[2] <= peaks[1]
    assert peaks == [step.peak() for step in (none, dropout, sparseout)]


def test_the_profiler_is_silent():
    program = (
        "import torch; from sparseout.bench.memory import peak_bytes; peak_bytes(lambda: torch.ones(9), torch.device('cpu'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
