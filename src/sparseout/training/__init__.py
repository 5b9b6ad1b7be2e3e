"""One run of a study, and what a study of your own is made of."""

from sparseout.training.best_epoch import Keep
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Learner, Loss
from sparseout.training.loss_study import Data, supervised_study
from sparseout.training.regularizer import regularizer_layer
from sparseout.training.study import Study
from sparseout.training.supervised import SupervisedLearner

__all__ = [
    "Config",
    "Data",
    "Keep",
    "Learner",
    "Loss",
    "Study",
    "SupervisedLearner",
    "measuring",
    "regularizer_layer",
    "supervised_study",
]
