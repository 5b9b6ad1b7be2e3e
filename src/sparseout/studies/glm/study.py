"""Generalized linear models with Sparseout on the features, fitted by the estimators of `sparseout.glm`."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sparseout.glm.expectation import expected_loss
from sparseout.glm.families import FAMILIES, Name, predictor
from sparseout.glm.penalty import check_p_below_1, penalty
from sparseout.records.schema import Record
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Learner, Loss
from sparseout.training.regularizer import regularizer_layer
from sparseout.training.study import Study

Dataset = Literal["breast-cancer", "diabetes", "digits", "counts", "synthetic-strong", "synthetic-even", "synthetic-weak"]
CLASSES = ("bernoulli", "multinomial")
UNUSED = ("gradient", "precision", "scale", "target_sparsity")  # settings of networks


@dataclasses.dataclass(frozen=True)
class GlmConfig(Config):
    """Fit a generalized linear model with noise on its features, and compare the noise's cost with the theorem's penalty.

    Attributes:
        seed: seed of the split into training and test data, of synthetic data, and of the stochastic method
        regularizer: 'sparseout' (q = 2 is Dropout) or 'none' (which ignores p and q)
        dataset: 'breast-cancer', 'diabetes' or 'digits' (bundled with scikit-learn, standardised), 'counts' (synthetic, Poisson),
            'synthetic-strong', 'synthetic-even' or 'synthetic-weak' (Gaussian, 40 features of which the strong, every fifth or
            the weak ones matter)
        method: 'marginal' minimises the second-order objective, 'stochastic' trains under noise in minibatches
        alpha: weight of the ridge penalty
        tol: tolerance of the solver
        max_iter: maximum number of iterations, or of passes over the data for 'stochastic'
    """

    study: ClassVar[str] = "glm"
    epochs: ClassVar[int] = 1  # the engine sees a fit as one step

    dataset: Dataset = "breast-cancer"
    method: Literal["marginal", "stochastic"] = "marginal"
    alpha: float = 0.0
    tol: float = 1e-4
    max_iter: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_p_below_1(self.p)
        self._check_not_negative("alpha", "tol")
        self._check_at_least_1("max_iter")
        if self.regularizer not in ("sparseout", "none"):
            dropout = ": it is Sparseout with q = 2" if self.regularizer == "dropout" else ""
            raise ValueError(f"regularizer must be 'sparseout' or 'none' in the study 'glm', got {self.regularizer!r}{dropout}")
        for name in UNUSED:
            if getattr(self, name) != (default := getattr(Config, name)):
                raise ValueError(f"{name} must be {default!r} in the study 'glm', got {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class Split:
    """Training and test data of a family, as float64 tensors; classes are numbered from 0."""

    family: Name
    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor

    @property
    def outputs(self) -> int:
        """Number of linear predictors: one per class for the multinomial family, else one."""
        return int(self.y.max()) + 1 if self.family == "multinomial" else 1


class LinearPredictor(nn.Module):
    """`eta = W noise(x) + b`, in float64.

    Args:
        features: number of features.
        outputs: number of linear predictors.
        noise: layer applied to the features.

    Shape:
        Input: `(samples, features)`. Output: `(samples,)` for one predictor, else `(samples, outputs)`.
    """

    regularised_layers = ("noise",)

    def __init__(self, features: int, outputs: int, noise: nn.Module) -> None:
        super().__init__()
        self.noise = noise
        self.linear = nn.Linear(features, outputs, dtype=torch.float64)

    def forward(self, X: Tensor) -> Tensor:
        eta: Tensor = self.linear(self.noise(X))
        return eta.squeeze(-1) if self.linear.out_features == 1 else eta


class GlmLearner(Learner):
    """Fits the estimator in a single step, and copies its coefficients into the network."""

    network: LinearPredictor

    def __init__(self, config: GlmConfig, data: Split, network: LinearPredictor, accelerator: Accelerator) -> None:
        super().__init__(config, network, torch.optim.SGD(network.parameters()), accelerator)
        self.data = data

    def start_epoch(self, epoch: int) -> int:
        return 1

    def update(self, step: int) -> tuple[Tensor, int]:
        from sklearn.exceptions import ConvergenceWarning

        from sparseout.glm import SparseoutClassifier, SparseoutRegressor

        config = self.config
        family: Any = self.data.family
        settings: dict[str, Any] = {name: getattr(config, name) for name in ("p", "q", "method", "alpha", "tol", "max_iter")}
        settings["random_state"] = config.seed_of("noise") % 2**32
        fit = SparseoutClassifier(**settings) if family in CLASSES else SparseoutRegressor(family=family, **settings)
        with warnings.catch_warnings():
            # A fit that stops early is recorded as it is.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit.fit(self.data.X.numpy(), self.data.y.numpy())
        with torch.no_grad():
            self.network.linear.weight.copy_(torch.as_tensor(fit.coef_).reshape(self.network.linear.weight.shape))
            self.network.linear.bias.copy_(torch.as_tensor(fit.intercept_).reshape(-1))
            self.network.eval()
            total, items, _ = self.loss(step)
        return total / self.accelerator.num_processes, items

    def loss(self, step: int) -> Loss:
        eta = self.network(self.data.X.to(self.device))
        return Loss(FAMILIES[self.data.family].loss(eta, self.data.y.to(self.device)).sum(), len(self.data.y))

    def evaluate(self) -> Record:
        return evaluate(self.network, self.data)

    def results(self) -> Record:
        return evaluate(self.network, self.data)


def load(config: GlmConfig, data_dir: Path | None) -> Split:
    """Load the data of `config.dataset`, split by `config.seed`. Bundled features are standardised by the training data."""
    from sparseout.studies.glm import data

    name = config.dataset.removeprefix("synthetic-").replace("-", " ")
    train, test = data.split(name, config.seed)
    if not config.dataset.startswith("synthetic-"):
        train, test = data.standardised(train, test)
    tensors = map(torch.as_tensor, (train.X, train.y, test.X, test.y))
    return Split(train.family, *tensors)


def model(config: GlmConfig, data: Split) -> LinearPredictor:
    """Build the network of `config` for the features and classes of `data`."""
    return LinearPredictor(data.X.shape[1], data.outputs, regularizer_layer(config, data.X.shape[1]))


def test_batches(data: Split) -> tuple[Tensor, ...]:
    """Return the test features, in one batch."""
    return (data.X_test,)


@torch.no_grad()
def evaluate(network: LinearPredictor, data: Split) -> Record:
    """Return the mean test loss, the accuracy of a classifier, the features' sparsity, and the noise's cost on the training data.

    The loss is that of `expected_loss`. `penalty` is the theorem's second-order cost of the noise, `noise_loss` the expectation.
    """
    network.eval()
    device = network.linear.weight.device
    y = data.y_test.to(device)
    with measuring(network, network.regularised_layers, profile=True) as measures:
        eta = network(data.X_test.to(device))
    record: Record = {"test_loss": FAMILIES[data.family].loss(eta, y).mean().item()}
    if data.family in CLASSES:
        predicted = eta.argmax(-1) if data.family == "multinomial" else eta > 0
        record["accuracy"] = (predicted == y).double().mean().item()
    return {**record, **_noise_cost(network, data), **measures.results()}


def _noise_cost(network: LinearPredictor, data: Split) -> Record:
    p, q = getattr(network.noise, "p", 0.0), getattr(network.noise, "q", 2.0)
    weight, bias = network.linear.weight.cpu(), network.linear.bias.cpu()
    coef, intercept = (weight, bias) if len(bias) > 1 else (weight[0], bias[0])
    clean = FAMILIES[data.family].loss(predictor(data.X, coef, intercept), data.y).mean()
    generator = torch.Generator().manual_seed(0)
    noisy = expected_loss(data.X, data.y, coef, p, q, data.family, intercept, generator=generator).value
    second_order = penalty(data.X, coef, p, q, data.family, intercept, y=data.y)
    return {"penalty": second_order.item(), "noise_loss": (noisy - clean).item()}


STUDY = Study(
    GlmConfig,
    load,
    model,
    GlmLearner,
    evaluate,
    test_batches,
    items="samples",
    presets={"quick": {"q": (0.5, 1.0, 2.0, 3.0), "seed": (0, 1, 2)}},
)
