"""`scale="matched"` on the activations of the study networks: the variance of the noise is Dropout's for every `q`."""

import pytest
import torch
from accelerate import Accelerator

from sparseout import Sparseout
from sparseout.studies import autoencoder, image, language

QS = (0.5, 1.0, 1.3, 2.7, 4.0)
TRAINED, RECORDED, SETTLED = 30, 120, 40  # batches
LSTM = {"hidden_size": 32, "embedding_size": 16, "num_layers": 2, "epochs": 1, "train_tokens": 20000, "batch_size": 20}
NETWORKS = {
    "autoencoder": (autoencoder.STUDY, {"dataset": "digits", "hidden_size": 64, "batch_size": 100}),
    "wide resnet": (image.STUDY, {"dataset": "digits", "batch_size": 64}),
    "wide resnet, signed": (image.STUDY, {"dataset": "digits", "batch_size": 64, "placement": "after-conv1"}),
    "lstm": (language.STUDY, LSTM | {"dataset": "english", "p_hidden": 0.5}),
}


def recorded(network):
    """Train a little, and return the inputs of each layer in the batches after that."""
    study, settings = NETWORKS[network]
    config = study.config(p=0.5, **settings)
    data = study.load(config, None)
    torch.manual_seed(0)
    learner = study.learner(config, data, study.model(config, data), Accelerator(cpu=True))
    inputs, epoch, step, steps = {}, 0, 0, 0
    for batch in range(TRAINED + RECORDED):
        if step == steps:
            epoch, step = epoch + 1, 0
            steps = learner.start_epoch(epoch)
            learner.network.train()
        if batch < TRAINED:
            learner.update(step)
        else:
            learner.loss(step)
        step += 1
        if batch == TRAINED - 1:
            for layer in learner.network.modules():
                if isinstance(layer, Sparseout):
                    layer.register_forward_pre_hook(lambda layer, args: inputs.setdefault(layer, []).append(args[0].detach()))
    return inputs


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_the_noise_over_each_layer_is_as_strong_as_dropouts(network):
    inputs = recorded(network)
    assert inputs
    for like, batches in inputs.items():
        layer = type(like)(0.5, scale="matched")
        for x in batches[-SETTLED:]:
            layer(x)
        for q in QS:
            layer.q, ours, dropout = q, 0.0, 0.0
            for x in batches:
                # At p = 0.5, n is 1 or -1: the squared noise is its variance, whatever the mask is.
                ours += (layer(x) - x).double().square().sum().item()
                dropout += x.double().square().sum().item()
            assert ours == pytest.approx(dropout, rel=0.02)
