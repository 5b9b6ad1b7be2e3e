"""The experiments on the theorem: their measurements, the files of their command, and the statements of the theory page."""

import json
import math
import re
from pathlib import Path

import numpy
import pytest
import scipy.stats
import torch
from PIL import Image

from sparseout.cli.main import main
from sparseout.glm import SparseoutRegressor, expected_loss
from sparseout.studies.glm import approximation, convergence, data, prediction, shrinkage

ROOT = Path(__file__).parents[2]
THEORY = (ROOT / "docs" / "theory.md").read_text()


def records(name):
    return [json.loads(line) for line in (ROOT / "results" / "glm" / f"{name}.jsonl").read_text().splitlines()]


def test_the_exact_minimum_has_no_slope():
    chosen = data.small("counts")
    theta = torch.from_numpy(convergence.exact_minimum(chosen)[0]).requires_grad_()
    X, y = torch.from_numpy(chosen.X), torch.from_numpy(chosen.y)
    loss = expected_loss(X, y, theta[:-1], convergence.P, convergence.Q, "poisson", theta[-1]).value
    assert torch.autograd.grad(loss, theta)[0].abs().max() < 1e-5


def test_the_gaussian_course_ends_at_the_quadratic_form():
    quadratic, *course = convergence.measure("diabetes", max_steps=500)
    assert quadratic["distance"] < 1e-6
    steps = [row["step"] for row in course if row["seed"] == 0]
    assert steps == [14, 28, 56, 112, 224, 448]
    assert course[5]["distance"] < 0.5 * course[0]["distance"]


def test_a_longer_course_begins_as_a_shorter_one():
    chosen = data.small("diabetes")
    fits = [convergence.estimator(chosen, method="stochastic", tol=0, max_iter=n, random_state=1) for n in (1, 1, 2)]
    with pytest.warns(UserWarning, match="did not converge"):
        one, again, two = (fit.fit(chosen.X, chosen.y).coef_ for fit in fits)
    assert (one == again).all()
    assert (one != two).any()


def test_the_orders_of_the_error(monkeypatch):
    monkeypatch.setattr(approximation, "T", (1 / 32, 1 / 256))
    rows = approximation.over_t()
    rows += [{"data": name, "p": p, "quadratic": 2 * p, "exact": p} for name in approximation.DATA for p in (0.001, 0.01)]
    orders = approximation.orders(rows)
    assert orders["Bernoulli, in t, with an intercept"] == pytest.approx(3, abs=0.1)
    assert orders["Bernoulli, in t, without"] == pytest.approx(4, abs=0.1)
    assert orders["Synthetic counts, Poisson, in p"] == pytest.approx(1)


def test_the_weight_of_a_feature_is_its_norm_to_the_power_q():
    X = data.bundled("breast cancer").X
    for row in shrinkage.weights("breast cancer"):
        expected = (abs(X[:, row["feature"]]) ** row["q"]).mean()
        assert row["weight"] == pytest.approx(expected)
        if row["q"] == 2:
            assert row["relative"] == pytest.approx(1)


def test_the_kept_share_of_a_coefficient_is_the_prediction_of_the_penalty():
    rows = shrinkage.fits(samples=20_000)
    assert max(abs(row["kept"] - row["predicted"]) for row in rows) < 0.06
    left = {q: [row["kept"] for row in rows if row["q"] == q] for q in shrinkage.QS}
    assert left[0.5][0] < 0.1 < 0.9 < left[0.5][-1]
    assert left[3.0][0] > 0.8 > 0.1 > left[3.0][-1]


@pytest.mark.parametrize("name", ["diabetes", "breast cancer"])
def test_every_method_is_tuned_over_as_many_points(name):
    train, _ = data.split(name, 0)
    for method in prediction.METHODS:
        estimator, grid = prediction._method(method, train)
        assert math.prod(map(len, grid.values())) == prediction.POINTS
        for parameter in grid:
            assert parameter in estimator.get_params()


def test_splits_are_paired_and_do_not_overlap():
    train, test = data.split("diabetes", 0)
    whole = data.bundled("diabetes")
    assert len(train.y) + len(test.y) == len(whole.y)
    assert not {tuple(row) for row in train.X.tolist()} & {tuple(row) for row in test.X.tolist()}
    again, _ = data.split("diabetes", 0)
    other, _ = data.split("diabetes", 1)
    assert (train.X == again.X).all()
    assert (train.X != other.X).any()


def test_a_split_of_the_prediction():
    rows = prediction.measure("weak", 0)
    assert [row["method"] for row in rows] == list(prediction.METHODS)
    losses = {row["method"]: row["loss"] for row in rows}
    assert losses["sparseout"] < losses["dropout"]  # q > 2 spares the small features, which alone matter here
    assert [prediction._q(row) for row in rows][1:] == [None] * 3
    assert prediction._q(rows[0]) == 3.0
    train, test = data.split("weak", 0)
    p = rows[0]["chosen"]["sparseoutregressor__p"]
    fit = SparseoutRegressor(p=p, q=3.0, tol=1e-3, max_iter=300).fit(train.X, train.y)
    assert losses["sparseout"] == pytest.approx(numpy.mean((fit.predict(test.X) - test.y) ** 2))


def test_the_interval_of_paired_ratios():
    ratios = [0.1, 0.2, 0.6]
    sizes = {"train": 200, "test": 100}
    rows = [{"data": "diabetes", "seed": seed, "method": "dropout", "loss": 1.0 + seed, **sizes} for seed in range(3)]
    rows += [{**row, "method": "ridge", "loss": row["loss"] * math.exp(ratio)} for row, ratio in zip(rows, ratios, strict=True)]
    mean, width = prediction.interval(rows, "diabetes", "ridge")
    assert mean == pytest.approx(0.3)
    assert width == pytest.approx(scipy.stats.t.ppf(0.975, 2) * numpy.std(ratios, ddof=1) * math.sqrt(1 / 3 + 1 / 2))
    assert prediction.interval(rows, "diabetes", "dropout") == (0, 0)


class Stop(KeyboardInterrupt):
    """Ctrl-C in the middle of an experiment."""


def test_the_command_resumes_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    def stop():
        raise Stop

    run = ["theorem", "--experiments", "shrinkage", "--out", str(tmp_path)]
    whole = shrinkage.parts()
    monkeypatch.setattr(shrinkage, "parts", lambda: {**whole, "synthetic": stop})
    assert main(run) == 130
    first = (tmp_path / "shrinkage.jsonl").read_text()
    assert {json.loads(line)["part"] for line in first.splitlines()} == {"breast cancer"}
    assert not (tmp_path / "shrinkage.png").exists()
    monkeypatch.setattr(shrinkage, "parts", lambda: {"breast cancer": stop, "synthetic": lambda: shrinkage.fits(200)})
    assert main(run) == 0
    rows = (tmp_path / "shrinkage.jsonl").read_text()
    assert rows.startswith(first)
    assert rows != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["provenance.json", "shrinkage.jsonl", "shrinkage.png"]
    source = json.loads((tmp_path / "provenance.json").read_text())["shrinkage"]
    assert source["command"] == "sparseout theorem --experiments shrinkage"
    with Image.open(tmp_path / "shrinkage.png") as image:
        assert image.width > 1500
    assert "left at 10" in capsys.readouterr().out
    monkeypatch.setattr(shrinkage, "parts", lambda: dict.fromkeys(whole, stop))
    assert main(run) == 0
    assert (tmp_path / "shrinkage.jsonl").read_text() == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--experiments", "alchemy"], "experiments must be some of 'convergence', .*, got 'alchemy'"),
        (["--out", "FILE"], "--out must be a folder that can be written: "),
        (["--experiments", "shrinkage", "--out", "DAMAGED"], "shrinkage.jsonl, line 1 cannot be read as JSON"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(flags, message, tmp_path, capsys):
    (tmp_path / "FILE").touch()
    (tmp_path / "DAMAGED").mkdir()
    (tmp_path / "DAMAGED" / "shrinkage.jsonl").write_text("{half")
    flags = [str(tmp_path / flag) if flag.isupper() else flag for flag in flags]
    assert main(["theorem", *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize("module", [convergence, approximation, shrinkage, prediction])
def test_the_published_rows_are_whole_and_say_where_they_come_from(module):
    name = module.__name__.rsplit(".", 1)[1]
    assert {row["part"] for row in records(name)} == set(module.parts())
    source = json.loads((ROOT / "results" / "glm" / "provenance.json").read_text())[name]
    assert re.fullmatch("[0-9a-f]{12}", source["commit"])
    assert source["command"] == f"sparseout theorem --experiments {name}"


def test_the_theory_page_names_tests_that_exist():
    named = re.findall(r"`(test_\w+)` in \[\w+\.py\]\(\.\./(tests/\w+/\w+\.py)\)", THEORY)
    assert len(named) >= 14
    for test, path in named:
        assert f"def {test}(" in (ROOT / path).read_text(), test
