"""The range of `find_q` holds for the networks of the studies: a target in it is reached, and one beyond it is reported."""

import copy
import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparseout import Probe, SparsityTarget, find_q
from sparseout.control.settings import has_dial
from sparseout.studies import autoencoder, image, language

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


class Network(NamedTuple):
    """A network in training: batches, loss and optimizer; the steps with `q = 2`, at each point, and with a target."""

    model: nn.Module
    batches: list[Any]
    loss: Callable[[nn.Module, Any], torch.Tensor]
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    steps: tuple[int, int, int]
    bounds: tuple[float, float] | None = None


def reconstruct(dataset, steps, data_dir=None):
    config = autoencoder.AutoencoderConfig(dataset=dataset)
    images = autoencoder.load(config, data_dir)

    def loss(model, batch):
        return F.binary_cross_entropy_with_logits(model(batch), batch)

    def optimizer(parameters):
        return torch.optim.Adam(parameters, 1e-3, fused=True)

    order = torch.randperm(len(images.train))[:20_000]
    return Network(autoencoder.model(config, images), list(images.train[order].split(128)), loss, optimizer, steps)


def digits():
    return reconstruct("digits", (800, 150, 600))


def mnist():
    if "SPARSEOUT_DATA" not in os.environ:
        pytest.skip("needs MNIST in the folder SPARSEOUT_DATA")
    return reconstruct("mnist", (500, 100, 400), Path(os.environ["SPARSEOUT_DATA"]))


def wide_resnet():
    config = image.ImageConfig(batch_size=32, valid_images=237, p=0.5)
    data = image.load(config, None)
    pairs = zip(data.normalised(data.train.images).split(32), data.train.labels.split(32), strict=True)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]), batch[1])

    def optimizer(parameters):
        return torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)

    return Network(image.model(config, data), list(pairs), loss, optimizer, (150, 60, 1200), (1.0, 4.0))


class ClippedSGD(torch.optim.SGD):
    def step(self, closure=None):
        nn.utils.clip_grad_norm_([parameter for group in self.param_groups for parameter in group["params"]], 0.25)
        return super().step(closure)


def lstm():
    noise = {"p": 0.5, "p_hidden": 0.5, "p_input": 0.0, "p_weight": 0.0, "p_embedding": 0.0, "scale": "rms"}
    config = language.LanguageConfig(train_tokens=40_000, num_layers=2, hidden_size=96, embedding_size=96, **noise)
    corpus = language.load(config, None)
    columns = corpus.train[: len(corpus.train) // 10 * 10].view(10, -1).t()
    starts = range(0, len(columns) - 36, 35)

    def loss(model, batch):
        return F.cross_entropy(model(batch[0]).logits.flatten(0, 1), batch[1].flatten())

    def optimizer(parameters):
        return ClippedSGD(parameters, 30.0)

    batches = [(columns[i : i + 35], columns[i + 1 : i + 36]) for i in starts]
    return Network(language.model(config, corpus), batches, loss, optimizer, (500, 80, 1200), (1.0, 4.0))


def train(network, model, steps, target=None):
    optimizer = network.optimizer(list(model.parameters()))
    for batch in itertools.islice(itertools.cycle(network.batches), steps):
        optimizer.zero_grad()
        loss = network.loss(model, batch)
        loss.backward()
        optimizer.step()
        if target is not None:
            target.step(loss)


def clean_sparsity(network, model):
    """Return the mean sparsity over the layers, on batches that neither the finder nor the target measures."""
    model.eval()
    with torch.no_grad(), Probe(model, has_dial) as probe:
        for batch in network.batches[8:16]:
            network.loss(model, batch)
    found = [record.hoyer for record in probe.summary().layers]
    return sum(found) / len(found)


@pytest.mark.parametrize("make", [digits, mnist, wide_resnet, lstm])
def test_targets_in_the_range_are_reached_and_others_end_in_the_report(make):
    torch.manual_seed(0)
    network = make()
    warmup, steps, training = network.steps
    train(network, network.model, warmup)
    settings = {"optimizer": network.optimizer, "bounds": network.bounds}
    found = find_q(network.model, network.batches, network.loss, points=3, steps=steps, **settings)
    print(found)
    low, high = found.range
    assert high - low > 0.08

    def reports(wanted):
        model = copy.deepcopy(network.model)
        loader = network.batches[:4]
        forward = {"forward": lambda batch: network.loss(model, batch)}
        target = SparsityTarget(model, wanted, mean=True, bounds=found.bounds, every=2, loader=loader, **forward)
        train(network, model, training, target)
        report = target.report()["mean"]
        target.stop()
        return report, clean_sparsity(network, model)

    for fraction in (0.1, 0.5, 0.9):
        wanted = low + fraction * (high - low)
        with warnings.catch_warnings():
            if not found.comes_back:  # a target that overshoots is out of reach for a while
                warnings.simplefilter("ignore")
            report, sparsity = reports(wanted)
        print(f"target {wanted:.3f}: {report}; clean {sparsity:.3f}")
        assert sparsity == pytest.approx(wanted, abs=0.02)
        assert report.reached
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is out of reach, in the networks that train for long enough to be sure
        report, sparsity = reports(low - 0.1)
    print(f"outside: {report}; clean {sparsity:.3f}")
    assert report.state in ("at its bound", "out of reach")
