"""A sparsity target in the Trainer of Lightning: the control, the resume, the logs."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sparseout import Sparseout, lightning_target_callback

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning.pytorch")
pytestmark = pytest.mark.filterwarnings("ignore")

LAYER = "network.2"


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), Sparseout(p=0.5, q=2.0), nn.Linear(64, 8))
        self.q = {}

    def training_step(self, batch, index):
        torch.manual_seed(self.global_step)  # the noise of a step, also after a resume
        self.q[self.global_step] = self.network[2].q
        return (self.network(batch[0]) - batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Keep(lightning.loggers.logger.DummyLogger):
    """Keeps all logged metrics."""

    def __init__(self):
        super().__init__()
        self.logged = []

    def log_metrics(self, metrics, step=None, **_):
        self.logged.append((step, dict(metrics)))


def fitted(folder, callback, steps, resume=None, every=None, **settings):
    torch.manual_seed(0)
    module, logger = Module(), Keep()
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    saving = lightning.callbacks.ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=logger,
        callbacks=[callback, *([saving] if every else [])],
        enable_checkpointing=bool(every),
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **settings,
    )
    trainer.fit(module, DataLoader(TensorDataset(x), batch_size=16), ckpt_path=resume)
    return module, logger, trainer


def test_a_target_is_reached_and_logged(tmp_path):
    sparse, dense = lightning_target_callback(0.7, every=2), lightning_target_callback(0.2, every=2)
    (found, logger, trainer), (other, _, _) = fitted(tmp_path, sparse, 60), fitted(tmp_path, dense, 60)
    assert found.network[2].q < 2 < other.network[2].q
    assert sparse.target.steps == 60
    assert sparse.target.report()[LAYER].measured > dense.target.report()[LAYER].measured
    rows = [row for _, row in logger.logged if f"q/{LAYER}" in row]
    assert len(rows) > 50
    assert rows[-1][f"q/{LAYER}"] == pytest.approx(found.network[2].q)
    assert rows[-1][f"sparsity/{LAYER}"] == pytest.approx(sparse.target.report()[LAYER].measured)
    assert trainer.callback_metrics[f"q/{LAYER}"] == pytest.approx(found.network[2].q)
    before = sparse.target.report()[LAYER].measured
    found.network(torch.randn(4, 8))  # the hooks are gone
    assert sparse.target.report()[LAYER].measured == before


def test_a_resumed_training_has_the_same_numbers(tmp_path):
    whole, _, _ = fitted(tmp_path / "whole", lightning_target_callback(0.7, every=2), 32)
    fitted(tmp_path / "part", lightning_target_callback(0.7, every=2), 16, every=16)
    callback = lightning_target_callback(0.7, every=2)
    resumed, _, _ = fitted(tmp_path / "rest", callback, 32, resume=tmp_path / "part" / "step=16.ckpt")
    assert callback.target.steps == 32
    assert min(resumed.q) == 16
    assert resumed.q == {step: q for step, q in whole.q.items() if step >= 16}
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_accumulated_batches_are_one_step(tmp_path):
    callback = lightning_target_callback(0.7)
    fitted(tmp_path, callback, 10, accumulate_grad_batches=2)
    assert callback.target.steps == 10


def test_bad_arguments_raise():
    with pytest.raises(TypeError, match="unexpected keyword argument 'evry'"):
        lightning_target_callback(0.5, evry=2)


def test_without_lightning_an_error_names_the_extra():
    program = "import sys; sys.modules['lightning'] = None; import sparseout; sparseout.lightning_target_callback(0.5)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    line = done.stderr.splitlines()[-1]
    assert line == "ImportError: lightning_target_callback needs lightning: pip install 'sparseout[lightning]'"
