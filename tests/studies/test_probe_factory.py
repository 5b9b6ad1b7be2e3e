"""`sparseout probe package.module:factory`: a model from the user's own function, and its mistakes in one line."""

import os
import pickle
import sys

import numpy
import pytest
from probe_cli import Bomb, probe, refused
from torch import nn

from sparseout.probe import Summary

FACTORY = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU())

def batches():
    return model(), (torch.ones(2, 4) for _ in range(3))

def named():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, a, b):
            return self.act(a + b)

    return Named(), [{"a": torch.ones(2, 3), "b": torch.ones(2, 3)}, (torch.ones(1, 3), torch.ones(1, 3))]

def nothing():
    return model(), []

def number():
    return 3

def fails():
    raise LookupError("no weights\\nat all")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield "my_models"
    sys.modules.pop("my_models", None)


def test_a_factory_of_the_users_own(module, tmp_path, capsys):
    for factory, vectors in (("batches", 6), ("named", 3)):
        assert probe(capsys, f"{module}:{factory}", "--json", tmp_path / "s.json")[0] == 0
        assert Summary.read(tmp_path / "s.json").layers[0].vectors == vectors
    numpy.save(tmp_path / "samples.npy", numpy.ones((70, 4), dtype=numpy.float32))
    assert probe(capsys, f"{module}:model", "--data", tmp_path / "samples.npy", "--json", tmp_path / "s.json")[0] == 0
    assert Summary.read(tmp_path / "s.json")["1"].vectors == 70
    assert Summary.read(tmp_path / "s.json").forwards["eval"]["seen"] == 3


def test_a_faulty_factory_is_named(module, tmp_path, capsys):
    assert refused(capsys, f"{module}:modle").endswith("has no function 'modle': did you mean model?")
    assert refused(capsys, f"{module}:torch").endswith("has no function 'torch'")
    assert refused(capsys, f"{module}:model").endswith("returns a model without batches: pass --data with a .npy file of samples")
    assert "must return a torch.nn.Module, or one and its batches, got int" in refused(capsys, f"{module}:number")
    assert refused(capsys, f"{module}:fails").startswith("my_models:fails() failed: LookupError: ")
    assert "my_models.py:" in refused(capsys, f"{module}:fails")
    assert refused(capsys, f"{module}:nothing") == "TARGET provides no batches to run the model on"
    assert refused(capsys, "no_models:x").startswith("no module named 'no_models': TARGET must be hf:NAME_OR_FOLDER")
    assert (
        refused(capsys, "no_models") == "TARGET must be hf:NAME_OR_FOLDER, package.module:factory or run:FOLDER, got 'no_models'"
    )
    numpy.save(tmp_path / "wide.npy", numpy.ones((2, 5), dtype=numpy.float32))
    message = refused(capsys, f"{module}:model", "--data", tmp_path / "wide.npy")
    assert message.startswith("the model cannot run on this data: RuntimeError: mat1 and mat2 shapes cannot be multiplied")
    (tmp_path / "fails_at_import.py").write_text("import torch\nraise OSError('no disk')")
    assert refused(capsys, "fails_at_import:model").startswith("fails_at_import cannot be imported: OSError: no disk (")


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps(Bomb()), None])
def test_an_array_is_not_unpickled(content, module, tmp_path, capsys):
    if content is None:
        numpy.save(tmp_path / "samples.npy", numpy.array([Bomb()], dtype=object), allow_pickle=True)
    else:
        (tmp_path / "samples.npy").write_bytes(content)
    message = refused(capsys, f"{module}:model", "--data", tmp_path / "samples.npy")
    assert "samples.npy cannot be read as a .npy array of numbers" in message
    assert not (tmp_path / "executed").exists()


def test_nothing_is_left_of_the_working_folder_on_the_path(module, capsys):
    before = list(sys.path)
    probe(capsys, f"{module}:batches")
    assert sys.path == before
    assert os.getcwd() not in sys.path or os.getcwd() in before
    assert isinstance(sys.modules["my_models"].model(), nn.Module)
