"""`accelerate` prepares, saves and resumes a changed model."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn

import sparseout
from sparseout import Sparseout


@pytest.fixture(autouse=True)
def _fresh_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    return sparseout.swap_dropout(model, 1.5).model


def prepare(accelerator):
    model = build()
    x = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x[:, :2]), batch_size=4)
    return accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2), loader)


def train(accelerator, model, optimizer, loader):
    model.train()
    for x, target in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(x), target))
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_resumes_to_the_same_numbers(precision, tmp_path):
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    parts = prepare(accelerator)
    train(accelerator, *parts)
    accelerator.save_state(tmp_path, safe_serialization=True)
    train(accelerator, *parts)
    expected = parts[0].state_dict()

    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    parts = prepare(accelerator)
    accelerator.load_state(tmp_path)
    train(accelerator, *parts)
    for name, value in parts[0].state_dict().items():
        assert torch.equal(value, expected[name])
        assert value.dtype in (torch.float32, torch.int64)


def test_a_sparsity_target_steps_once_per_optimizer_step_and_resumes(tmp_path):
    def prepared():
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model, optimizer, loader = prepare(accelerator)
        target = sparseout.SparsityTarget(accelerator.unwrap_model(model), 0.6, every=2)
        accelerator.register_for_checkpointing(target)
        return accelerator, model, optimizer, loader, target

    def epoch(accelerator, model, optimizer, loader, target):
        for x, wanted in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(x), wanted))
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                target.step()

    parts = prepared()
    epoch(*parts)
    parts[0].save_state(tmp_path, safe_serialization=True)
    epoch(*parts)
    again = prepared()
    again[0].load_state(tmp_path)
    epoch(*again)
    assert again[-1].steps == 6
    assert again[-1].state_dict() == parts[-1].state_dict()
    assert again[1][3].q == parts[1][3].q != 1.5
    assert all(torch.equal(a, b) for a, b in zip(again[1].parameters(), parts[1].parameters(), strict=True))


def test_a_prepared_model_can_be_checked_and_restored():
    model, *_ = prepare(accelerator := Accelerator(cpu=True, mixed_precision="bf16"))
    assert sparseout.check_swap(model, torch.randn(4, 8)).ok
    plain = accelerator.unwrap_model(model)
    assert isinstance(plain[3], Sparseout)
    assert isinstance(sparseout.restore(plain)[3], nn.Dropout)
