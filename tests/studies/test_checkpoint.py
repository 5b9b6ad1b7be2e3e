"""A checkpoint restores the saved state, belongs to one run, and executes no code."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sparseout.errors import UserError
from sparseout.training.checkpoint import _digest, load_checkpoint, save_checkpoint, save_tensors

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.1),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "asgd": lambda parameters: torch.optim.ASGD(parameters, lr=0.1),
}


def training(optimizer):
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    return model, OPTIMIZERS[optimizer](model.parameters())


def steps(model, optimizer, count):
    generator = torch.Generator().manual_seed(count)
    losses = []
    for _ in range(count):
        loss = model(torch.rand(5, 3, generator=generator)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_to_the_same_numbers(name, tmp_path):
    model, optimizer = training(name)
    steps(model, optimizer, 5)
    optimizer.param_groups[0]["lr"] = 0.05
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 5}
    save_checkpoint(tmp_path / "checkpoint", "abc", state)
    expected = steps(model, optimizer, 5)
    restored, its_optimizer = training(name)
    steps(restored, its_optimizer, 2)
    state = load_checkpoint(tmp_path / "checkpoint", "abc")
    restored.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    assert state["epoch"] == 5
    assert steps(restored, its_optimizer, 5) == expected


KEYS = st.text() | st.integers(-(2**60), 2**60)
VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]
TENSORS = st.builds(
    lambda dtype, shape: torch.arange(120)[: torch.Size(shape).numel()].reshape(shape).to(dtype),
    st.sampled_from(DTYPES),
    st.sampled_from([(), (0,), (3,), (2, 3), (4, 0)]),
)
TREES = st.dictionaries(KEYS, st.recursive(VALUES | TENSORS, lambda inner: st.dictionaries(KEYS, inner, max_size=3)), max_size=4)


def equal(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


@given(state=TREES)
def test_what_is_loaded_is_what_was_saved(state, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "tree"
    save_checkpoint(path, "abc", state)
    assert equal(load_checkpoint(path, "abc"), state)


def test_tied_and_transposed_tensors(tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    save_checkpoint(tmp_path / "checkpoint", "abc", {"a": x, "b": x, "c": x.T})
    state = load_checkpoint(tmp_path / "checkpoint", "abc")
    assert torch.equal(state["a"], x)
    assert torch.equal(state["b"], x)
    assert torch.equal(state["c"], x.T)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", "abc", {"epoch": 1})
    with pytest.raises(UserError, match="checkpoint is a checkpoint of the run abc, not of def: delete it"):
        load_checkpoint(tmp_path / "checkpoint", "def")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_changed_or_truncated_checkpoint_is_refused(place, bit, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged"
    state = {"x": torch.linspace(0, 1, 50), "epoch": 3, "best": 0.25}
    save_checkpoint(path, "abc", state)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at:] = b"" if cut else bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path} c"):
        load_checkpoint(path, "abc")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps("pickled")])
def test_an_unreadable_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "checkpoint").write_bytes(content)
    with pytest.raises(UserError, match="cannot be resumed from"):
        load_checkpoint(tmp_path / "checkpoint", "abc")


def test_a_pickle_is_not_executed(tmp_path):
    torch.save({"model": Bomb(tmp_path / "executed")}, tmp_path / "checkpoint")
    with pytest.raises(UserError, match="cannot be resumed from"):
        load_checkpoint(tmp_path / "checkpoint", "abc")
    assert not (tmp_path / "executed").exists()


FULL = """
import resource, signal, torch
from pathlib import Path
from sparseout.training.checkpoint import save_checkpoint
save_checkpoint(Path("checkpoint"), "abc", {"x": torch.zeros(100)})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
save_checkpoint(Path("checkpoint"), "abc", {"x": torch.zeros(10_000)})
"""


def test_where_there_is_no_room_the_last_checkpoint_is_intact(tmp_path):
    process = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "UserError: checkpoint could not be written (File too large): its previous content is intact" in process.stderr
    assert torch.equal(load_checkpoint(tmp_path / "checkpoint", "abc")["x"], torch.zeros(100))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


HOSTILE = {
    "a list": "[]",
    "a key that is no path": '{"epoch": 1}',
    "an empty path": '{"[]": 1}',
    "a path that is a number": '{"3": 1}',
    "a leaf in a leaf": '{"[\\"a\\"]": 1, "[\\"a\\", \\"b\\"]": 2}',
    "an unhashable key": '{"[[1]]": 1}',
    "nested 3,000 deep": "[" * 3000 + "]" * 3000,
    "5,000 digits": '{"[\\"a\\"]": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_checkpoint_with_a_right_checksum_is_refused(values, tmp_path):
    path = tmp_path / "checkpoint"
    save_tensors(path, {}, {"run": "abc", "values": values, "sha256": _digest("abc", values, {})})
    with pytest.raises(UserError, match="cannot be resumed from: delete it to start that run again") as caught:
        load_checkpoint(path, "abc")
    assert "\n" not in str(caught.value)
