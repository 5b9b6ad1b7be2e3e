"""`scale="matched"` on the activations of the study networks: the variance of the noise is Dropout's for every `q`."""

import pytest
import torch
from accelerate import Accelerator
from small_language import SMALL

from sparseout import Sparseout
from sparseout.studies import autoencoder, image, language

QS = (0.5, 1.0, 1.3, 2.0, 2.7, 4.0)
WARMUP, MEASURED = 30, 30  # batches
NETWORKS = {
    "autoencoder": (autoencoder.STUDY, {"dataset": "digits", "hidden_size": 64, "batch_size": 100}),
    "wide resnet": (image.STUDY, {"dataset": "digits", "batch_size": 32}),
    "wide resnet, signed": (image.STUDY, {"dataset": "digits", "batch_size": 32, "placement": "after-conv1"}),
    "lstm": (language.STUDY, SMALL | {"dataset": "english", "train_tokens": 4000, "p_hidden": 0.5, "batch_size": 10}),
}


def learner(network):
    study, settings = NETWORKS[network]
    config = study.config(p=0.5, scale="matched", **settings)
    data = study.load(config, None)
    torch.manual_seed(0)
    return study.learner(config, data, study.model(config, data), Accelerator(cpu=True))


class Steps:
    """Training steps one after another, with new epochs as they are needed."""

    def __init__(self, learner):
        self.learner, self.epoch, self.step, self.steps = learner, 0, 0, 0

    def take(self, count, train):
        for _ in range(count):
            if self.step == self.steps:
                self.epoch, self.step = self.epoch + 1, 0
                self.steps = self.learner.start_epoch(self.epoch)
            if train:
                self.learner.update(self.step)
            else:
                self.learner.loss(self.step)
            self.step += 1


@pytest.mark.parametrize("network", NETWORKS)
def test_the_noise_over_each_layer_is_as_strong_as_dropouts(network):
    one, powers = learner(network), {}
    one.network.train()
    layers = [layer for layer in one.network.modules() if isinstance(layer, Sparseout)]

    def add(layer, args, y):
        # At p = 0.5, n is 1 or -1: the squared noise is its variance, whatever the mask is.
        (x,), (ours, dropout) = args, powers.get(layer, (0.0, 0.0))
        powers[layer] = (ours + (y - x).double().square().sum().item(), dropout + x.double().square().sum().item())

    steps = Steps(one)
    steps.take(WARMUP, train=True)
    steps.take(WARMUP, train=False)  # the running moments settle
    for layer in layers:
        layer.register_forward_hook(add)
    for q in QS:
        for layer in layers:
            layer.q = q
        powers.clear()
        steps.take(MEASURED, train=False)
        assert len(powers) == len(layers) > 0
        for ours, dropout in powers.values():
            assert ours == pytest.approx(dropout, rel=0.02), q
