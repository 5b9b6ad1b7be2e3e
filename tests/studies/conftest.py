"""Fixtures of the studies' tests."""

import sys

import pytest
import stranger
import torch

from sparseout import report
from sparseout.studies.data import text


@pytest.fixture
def one_thread():
    """Use one thread, as runs do by default; several threads are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with the stranger's package, which is forgotten after the test."""
    stranger.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def no_report():
    """Write no figure and no report page, which take longer than a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def corpus():
    """A text whose words depend on the previous word, so that a model can learn from it."""
    generator = torch.Generator().manual_seed(0)
    chain = [0]
    for jump in torch.randint(1, 4, (1400,), generator=generator).tolist():
        chain.append((chain[-1] * 2 + jump) % 17)
    words = [f"w{number}" for number in chain]
    return text.index(words[:800], words[800:1100], words[1100:])
