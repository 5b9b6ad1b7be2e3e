"""The study's data: scikit-learn's bundled sets, and synthetic ones whose support is known."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from sparseout.glm.families import Name

TRAIN_SIZES = {"breast cancer": 200, "diabetes": 200, "digits": 300, "counts": 200}  # the other samples are the test set
SYNTHETIC = ("strong", "even", "weak")


@dataclasses.dataclass(frozen=True)
class Data:
    """Features, targets, and the family of the model that is fitted to them.

    Attributes:
        family: of the targets.
        X: float64 features, `(samples, features)`.
        y: float64 targets; classes are numbered from 0.
        coef: the coefficients that the targets were drawn with, if they are known.
    """

    family: Name
    X: Any
    y: Any
    coef: Any = None


@functools.cache
def bundled(name: str) -> Data:
    """`"breast cancer"` (569 x 30), `"diabetes"` (442 x 10, the target standardised) or `"digits"` (1,797 x 64)."""
    if name == "breast cancer":
        X, y = datasets.load_breast_cancer(return_X_y=True)
        return Data("bernoulli", X, y.astype(float))
    if name == "diabetes":
        X, y = datasets.load_diabetes(return_X_y=True, scaled=False)
        return Data("gaussian", X, (y - y.mean()) / y.std())
    X, y = datasets.load_digits(return_X_y=True)
    return Data("multinomial", X, y.astype(float))


@functools.cache
def small(name: str) -> Data:
    """Standardised data with so few features that every mask can be enumerated.

    Breast cancer has the 10 means of its 30 features, digits the first 6 principal components; `"counts"` are synthetic, 300 x 10
    with a support of 5 features.
    """
    if name == "counts":
        return counts()
    data = bundled(name)
    X = StandardScaler().fit_transform(data.X[:, :10] if name == "breast cancer" else data.X)
    if name == "digits":
        X = StandardScaler().fit_transform(PCA(6, svd_solver="full").fit_transform(X))
    return dataclasses.replace(data, X=numpy.ascontiguousarray(X))


def counts() -> Data:
    """Poisson counts: 300 samples of 10 normal features, of which 5 have an effect."""
    random = numpy.random.default_rng(0)
    X = random.normal(size=(300, 10))
    coef = numpy.array([0.5, -0.4, 0.3, -0.2, 0.1, 0, 0, 0, 0, 0])
    return Data("poisson", X, random.poisson(numpy.exp(X @ coef + 0.5)).astype(float), coef)


def synthetic(samples: int, support: str, seed: int) -> Data:
    """A linear model whose features differ in magnitude: 40 of them, log-evenly from 0.1 to 10, and noise of variance 1.

    Args:
        samples: how many.
        support: which 8 features have an effect, each of 0.5 a standard deviation: the `"strong"`, of largest magnitude, the
            `"weak"`, or `"even"`, every fifth.
        seed: of the samples.
    """
    random = numpy.random.default_rng(seed)
    scale = numpy.geomspace(0.1, 10, 40)
    chosen = {"strong": slice(32, None), "weak": slice(0, 8), "even": slice(2, None, 5)}[support]
    coef = numpy.zeros(40)
    coef[chosen] = 0.5 / scale[chosen]
    X = random.normal(size=(samples, 40)) * scale
    return Data("gaussian", X, X @ coef + random.normal(size=samples), coef)


def split(name: str, seed: int) -> tuple[Data, Data]:
    """Return training and test data: a random split of a bundled set or of `counts()`, or two draws of synthetic data."""
    if name in SYNTHETIC:
        return synthetic(100, name, seed), synthetic(1000, name, 10_000 + seed)
    whole = counts() if name == "counts" else bundled(name)
    labels = whole.y if whole.family in ("bernoulli", "multinomial") else None
    X, X_test, y, y_test = train_test_split(whole.X, whole.y, train_size=TRAIN_SIZES[name], random_state=seed, stratify=labels)
    return Data(whole.family, X, y), Data(whole.family, X_test, y_test)


def standardised(train: Data, test: Data) -> tuple[Data, Data]:
    """Return both with the features standardised by the mean and the standard deviation of the training features."""
    scaler = StandardScaler().fit(train.X)
    return dataclasses.replace(train, X=scaler.transform(train.X)), dataclasses.replace(test, X=scaler.transform(test.X))
