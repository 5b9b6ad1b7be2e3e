"""`sparseout optimum`: the best q of one study or two, from their records; and methods in `sparseout results`."""

import json

import pytest
from made import write_study
from PIL import Image

from sparseout.cli.main import main
from sparseout.studies.autoencoder import AutoencoderConfig

Q = (1.0, 1.5, 2.0, 2.5, 3.0)


def study(out, best, **settings):
    """The folder of a study whose scores have their optimum near `best`."""
    configs = [AutoencoderConfig(q=q, seed=seed, hidden_size=4, epochs=1, **settings) for q in Q for seed in range(5)]
    for config, folder in zip(configs, write_study(out, configs), strict=True):
        record = json.loads((folder / "summary.json").read_text())
        record["test_loss"] = 1 + (config.q - best - config.seed / 100) ** 2
        (folder / "summary.json").write_text(json.dumps(record))
    return str(out)


def test_two_studies_and_their_difference(tmp_path, capsys):
    first, second = study(tmp_path / "first", 1.5), study(tmp_path / "second", 2.25)
    assert main(["optimum", first, second]) == 0
    low, high, difference = capsys.readouterr().out.splitlines()
    optima = "1.5, 1.51, 1.52, 1.53, 1.54"
    assert low == (
        f"{first}: test loss is best at q = 1.52, 95 % interval 1.5 to 1.54, 5 seeds; the seeds' own optima are {optima}. "
        "The optimum lies below Dropout, q = 2."
    )
    assert high.startswith(f"{second}: test loss is best at q = 2.27")
    assert difference == f"{second} minus {first}: q differs by +0.75, 95 % interval +0.727 to +0.773, which excludes zero."


def test_the_figure_has_a_panel_for_each_study(tmp_path, capsys):
    studies = [study(tmp_path / "first", 1.5), study(tmp_path / "second", 2.25)]
    widths = []
    for folders in (studies[:1], studies):
        assert main(["optimum", *folders, "--figure", str(tmp_path / "figure.png")]) == 0
        assert capsys.readouterr().out.endswith(f"Figure: {tmp_path / 'figure.png'}\n")
        with Image.open(tmp_path / "figure.png") as image:
            widths.append(image.width)
    assert widths[1] == pytest.approx(2 * widths[0], abs=2)
    assert main(["optimum", *studies, "--figure", str(tmp_path / "no" / "figure.png")]) == 2


def test_a_tuned_p_is_said_to_be_tuned(tuned_study, capsys):
    assert main(["optimum", str(tuned_study)]) == 0
    assert "p was tuned for each q." in capsys.readouterr().out


@pytest.fixture
def tuned_study(tmp_path):
    """A study whose tune stage chose another `p` for each `q`."""
    write_study(tmp_path / "tuned", [AutoencoderConfig(q=q, seed=0, p=q / 10) for q in Q])
    candidates = [[{"settings": {"p": q / 10}, "runs": [], "scores": [], "missed": 0, "mean": 0.5}] for q in Q]
    rest = {"effort": 1, "missing": 0, "chosen": 0, "edges": [], "last_epoch": 0, "runs": []}
    contenders = [{"name": f"q {q}", "candidates": each, **rest} for q, each in zip(Q, candidates, strict=True)]
    choice = {"score": "valid_loss", "seeds": [100], "contenders": contenders}
    (tmp_path / "tuned" / "choice.json").write_text(json.dumps(choice))
    return tmp_path / "tuned"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--filter", "p=0.9"], "has no complete run of Sparseout with a fixed q and --filter"),
        (["--score", "accuracy"], "score must be one of 'test_loss' in"),
        (["--filter", "q=1,2"], "q must contain at least three different finite values, got [1.0, 2.0]"),
    ],
)
def test_refused_input(tmp_path, capsys, flags, message):
    assert main(["optimum", study(tmp_path / "study", 1.5), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_number_of_folders(capsys):
    assert main(["optimum", "a", "b", "c"]) == 2
    assert capsys.readouterr().err == "sparseout: optimum must have one or two folders, got 3\n"


def test_runs_with_the_same_q_and_seed_must_be_chosen_between(tmp_path, capsys):
    configs = [AutoencoderConfig(q=q, seed=0, p=p) for q in Q for p in (0.3, 0.5)]
    write_study(tmp_path / "study", configs)
    assert main(["optimum", str(tmp_path / "study")]) == 2
    assert "seed=0, which differ in p: choose between them with --filter" in capsys.readouterr().err
    assert main(["optimum", str(tmp_path / "study"), "--filter", "p=0.3"]) == 0
    assert "all scores are equal, 1 seed, so there is no optimum." in capsys.readouterr().out


def test_a_p_that_differs_between_values_of_q_is_said(tmp_path, capsys):
    write_study(tmp_path / "study", [AutoencoderConfig(q=q, seed=0, p=q / 10) for q in Q])
    assert main(["optimum", str(tmp_path / "study")]) == 0
    assert "runs with different q also differ in p." in capsys.readouterr().out


def test_results_list_the_methods_at_equal_sparsity(tmp_path, capsys):
    course = {"value": [1.0] * 65, "measured": [0.5] * 65}
    configs = []
    for seed in range(3):
        configs += [AutoencoderConfig(seed=seed, target_sparsity=target) for target in (0.4, 0.6)]
        configs += [AutoencoderConfig(seed=seed, regularizer="dropout"), AutoencoderConfig(seed=seed, regularizer="none")]
    for config, folder in zip(configs, write_study(tmp_path / "study", configs), strict=True):
        record = json.loads((folder / "summary.json").read_text())
        sparsity = config.target_sparsity if config.has_target else {"dropout": 0.5, "none": 0.2}[config.regularizer]
        record |= {"hoyer": sparsity, "test_loss": sparsity + config.seed / 100 * (config.regularizer == "dropout")}
        if config.has_target:
            record["control"] = {
                "achieved": sparsity,
                "dial": "q",
                "value": 1.0,
                "settled": 0.5,
                "out_of_reach": False,
                "course": course,
            }
        (folder / "summary.json").write_text(json.dumps(record))
    assert main(["results", str(tmp_path / "study")]) == 0
    out = capsys.readouterr().out
    assert out.count("against Sparseout") == 1
    row = next(line for line in out.splitlines() if line.startswith("nn.Dropout ") and "hoyer" in line)
    assert row.split() == ["nn.Dropout", "hoyer", "0.5", "3", "+0.01", "-0.0148", "to", "+0.0348", "undecided", "-", "0.100"]
    assert "no noise at its own hoyer: Sparseout did not reach it in 3 of 3 seeds." in out
