"""Ten thousand results are listed, compared and reported in the memory that any machine has."""

import json
import statistics
import subprocess
import sys

import numpy
import pytest
from made import summary

from sparseout.studies.autoencoder import STUDY

pytestmark = pytest.mark.slow

SETTINGS = {"q": tuple(1 + i / 4 for i in range(8)), "p": (0.1, 0.3, 0.5, 0.7, 0.9)}
SEEDS = 250
PROGRAM = """
import pathlib, sys
from sparseout import report
from sparseout.cli.main import main
from sparseout.training.folders import StudyFolder

out = pathlib.Path(sys.argv[1])
assert main(["results", str(out)]) == 0
assert main(["results", str(out), "--runs"]) == 0
folder = StudyFolder(out, "autoencoder")
report.write(folder.summaries(), folder.histories(), out)
if sys.platform != "linux":
    sys.exit(print(0))
status = pathlib.Path("/proc/self/status").read_text()  # getrusage would count the parent's memory, of before the program began
print(1024 * int(status.split("VmHWM:")[1].split()[0]))
"""


def result(config, generator):
    """The summary of a run; its test loss rises with q by more than the seeds differ."""
    hoyer, noise = 0.9 - config.q / 10 + generator.normal() / 100, generator.normal() / 100
    return summary(config, hoyer=hoyer, test_loss=config.q + noise)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The records of a study of ten thousand runs, and the output of a process that lists and reports them."""
    out, generator = tmp_path_factory.mktemp("many"), numpy.random.default_rng(0)
    (out / "study.json").write_text('{"study": "autoencoder"}')
    records = []
    for config in STUDY.grid({**SETTINGS, "seed": tuple(range(SEEDS))}):
        folder = out / config.folder
        folder.mkdir()
        records.append(result(config, generator))
        (folder / "summary.json").write_text(json.dumps(records[-1]))
        (folder / "metrics.jsonl").write_text('{"epoch": 1, "test_loss": 1.5}\n')
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(out)], capture_output=True, text=True, check=True)
    return records, done.stdout.splitlines(), (out / "report.html").read_text()


def test_the_settings_have_their_means_and_comparisons(done):
    records, lines, _ = done
    rows, pairs = [line.split() for line in lines[2:42]], [(q, p) for p in SETTINGS["p"] for q in SETTINGS["q"]]
    assert [(row[1].strip(","), row[3]) for row in rows] == [(f"{q:g}", f"{p:g}") for q, p in pairs]
    for row, (q, p) in zip(rows, pairs, strict=True):
        losses = [record["test_loss"] for record in records if (record["q"], record["p"]) == (q, p)]
        assert (int(row[4]), float(row[5])) == (SEEDS, pytest.approx(statistics.fmean(losses), rel=1e-3))
    sentences = lines[42:77]
    assert all("over 250 seeds" in sentence and "for 35 comparisons" in sentence for sentence in sentences)
    others = [(q, p) for q, p in pairs if q != 2]
    for sentence, (q, p) in zip(sentences, others, strict=True):
        label, found = sentence.split(" against Dropout: test loss ")
        assert (label, float(found.split()[0])) == (f"q = {q:g} (p {p:g})", pytest.approx(q - 2, abs=0.01))
        assert sentence.endswith(f"the data support {'a better' if q < 2 else 'a worse'} test loss.")
    assert lines[77].startswith("10000 runs of 10000 in ")


def test_each_run_is_listed_once(done):
    records, lines, _ = done
    assert sorted(line.split()[0] for line in lines[80:-1]) == sorted(record["run"] for record in records)


def test_the_page_has_the_settings_and_says_how_many_runs_it_leaves_out(done):
    _, _, page = done
    assert page.count("<tr data-layer=") == 40
    assert page.count('<tr id="run-') == 2000
    assert "Omitted to keep the page fast: 8,000 runs." in page


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of its memory from /proc")
def test_it_takes_less_than_a_gigabyte(done):
    assert int(done[1][-1]) < 2**30
