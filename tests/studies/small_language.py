"""A small language model in training, as the engine trains it."""

import torch
from accelerate import Accelerator

from sparseout.studies import language
from sparseout.studies.language import LanguageConfig

SMALL = {"num_layers": 2, "hidden_size": 8, "embedding_size": 6, "epochs": 2, "batch_size": 4, "bptt": 10}


def learner(corpus, **settings):
    config = LanguageConfig(**(SMALL | settings))
    torch.manual_seed(config.seed_of("initialisation"))
    return language.LanguageLearner(config, corpus, language.model(config, corpus), Accelerator(cpu=True))


def run(learner, until=None):
    """Train as the engine does; stop before the step `until`, an epoch and a step."""
    for epoch in range(1, learner.config.epochs + 1):
        steps = learner.start_epoch(epoch)
        if train_epoch(learner, epoch, 0, steps, until):
            return
        learner.evaluate()


def train_epoch(learner, epoch, start, steps, until=None):
    learner.network.train()
    for step in range(start, steps):
        if (epoch, step) == until:
            return True
        torch.manual_seed(learner.config.seed_of("noise", epoch, step, 0))
        learner.update(step)
    return False


def weights(learner):
    return {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
