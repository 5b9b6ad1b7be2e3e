"""`check_swap`, the loader of a `SparsityTarget` and `sparseout probe` read a batch in the same way."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from sparseout import Sparseout, SparsityTarget, check_swap
from sparseout.batches import arguments

A, B, LABELS = torch.ones(4, 3), torch.full((4, 3), 2.0), torch.arange(4)


class Recorder(nn.Module):
    """A model that records its arguments; a subclass names them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(3, 3), Sparseout())
        self.seen = []

    def keep(self, **given):
        self.seen.append({name: value for name, value in given.items() if value is not None})
        return self.layer(next(iter(given.values())))


class One(Recorder):
    def forward(self, a):
        return self.keep(a=a)


class Two(Recorder):
    def forward(self, a, b):
        return self.keep(a=a, b=b)


class Optional(Recorder):
    def forward(self, a, b=None, *, c=None):
        return self.keep(a=a, b=b, c=c)


class Any(Recorder):
    def forward(self, *inputs):
        return self.keep(**dict(zip("abc", inputs, strict=False)))


def by_check_swap(model, batch):
    check_swap(model, batch)


def by_target(model, batch):
    target = SparsityTarget(model, 0.5, loader=[batch])
    model.layer(A)
    target.step()
    target.stop()


def by_probe(model, batch):
    pytest.importorskip("rich")
    from sparseout.cli.probe.probed_model import ProbedModel

    ProbedModel(model, [batch], 1).run(batch, torch.device("cpu"))


CASES = [
    (One, A, {"a": A}),
    (One, (A,), {"a": A}),
    (One, (A, LABELS), {"a": A}),
    (One, [A, LABELS], {"a": A}),
    (One, {"a": A}, {"a": A}),
    (Two, (A, B), {"a": A, "b": B}),
    (Two, [A, B], {"a": A, "b": B}),
    (Two, (A, B, LABELS), {"a": A, "b": B}),
    (Two, [A, B, LABELS], {"a": A, "b": B}),
    (Two, {"b": B, "a": A}, {"a": A, "b": B}),
    (Optional, (A, B), {"a": A, "b": B}),
    (Optional, (A, B, LABELS), {"a": A, "b": B}),
    (Optional, [A, LABELS], {"a": A}),
    (Optional, {"a": A, "c": B}, {"a": A, "c": B}),
    (Any, (A, B), {"a": A, "b": B}),
    (Any, [A, LABELS], {"a": A}),
]


@pytest.mark.parametrize("run", [by_check_swap, by_target, by_probe])
@pytest.mark.parametrize(("kind", "batch", "given"), CASES)
def test_a_batch_means_the_same_to_all(kind, batch, given, run):
    model = kind()
    run(model, batch)
    (seen,) = model.seen
    assert seen.keys() == given.keys()
    assert all(torch.equal(seen[name], given[name]) for name in given)


@pytest.mark.parametrize("run", [by_check_swap, by_target, by_probe])
def test_the_batches_of_a_loader_leave_their_labels_out(run):
    for model, tensors in ((One(), (A, LABELS)), (Two(), (A, B, LABELS)), (Two(), (A, B))):
        (batch,) = DataLoader(TensorDataset(*tensors), batch_size=4)
        run(model, batch)
        assert list(model.seen[0]) == ["a", "b"][: len(model.seen[0])]
        assert len(model.seen[0]) == (1 if isinstance(model, One) else 2)


@pytest.mark.parametrize("wrapped", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel])
def test_a_wrapped_model_takes_what_the_model_takes(wrapped):
    assert arguments(wrapped(Two()), (A, B, LABELS))[0] == (A, B)
    assert arguments(wrapped(One()), [A, LABELS])[0] == (A,)


def test_a_packed_sequence_is_one_argument():
    packed = pack_sequence([A])
    assert arguments(nn.LSTM(3, 3), packed) == ((packed,), {})
    assert arguments(nn.LSTM(3, 3), [packed, LABELS]) == ((packed,), {})
    assert check_swap(nn.LSTM(3, 3), packed).ran == ()


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_a_scripted_model_takes_a_tuple_as_it_is():
    scripted = torch.jit.trace(nn.Linear(3, 3), A)
    assert arguments(scripted, (A,)) == ((A,), {})
    assert arguments(scripted, [A, LABELS]) == ((A,), {})
