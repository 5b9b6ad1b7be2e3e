"""Runs as tasks of a Ray cluster of two nodes on this machine; one node is killed."""

import itertools
import json
import time

import pytest
from made import published_numbers
from rich.console import Console

from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.runs.executors import SweepOptions, run_all
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.autoencoder import STUDY

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GRID = {"q": (1.0, 1.5, 2.0, 2.5), "seed": tuple(range(10)), "hidden_size": (16,), "epochs": (15,)}


@pytest.fixture(scope="module")
def cluster():
    """A cluster whose nodes are bound to loopback addresses, so that it needs no network."""
    from ray.cluster_utils import Cluster

    options = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"node_ip_address": "127.0.0.2", **options})
    ray.init(address=cluster.address, _node_ip_address="127.0.0.2", log_to_driver=False)
    cluster.options = options
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class KillNode:
    """A console that kills a node of the cluster when some runs have ended."""

    def __init__(self, cluster, node, after):
        self.cluster, self.node, self.after = cluster, node, after
        self.written = ""

    def write(self, text):
        self.written += text
        if self.node and self.written.count("done") >= self.after:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = None

    def flush(self):
        pass


def test_a_lost_node_loses_and_doubles_nothing(cluster, tmp_path):
    worker = cluster.add_node(node_ip_address="127.0.0.3", num_cpus=2, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    configs = STUDY.grid(GRID)
    assert len(configs) == 40
    killing = KillNode(cluster, worker, 10)
    options = RunOptions(tmp_path / "ray", device="cpu")
    records, failures = execute(STUDY, configs, options, SweepOptions(ray="auto"), Console(file=killing))
    assert killing.node is None
    assert failures == []
    assert sorted(record["run"] for record in records) == sorted(config.run for config in configs)
    alone, _ = execute(STUDY, configs, RunOptions(tmp_path / "alone", device="cpu"), SweepOptions(), Console(quiet=True))
    assert len(alone) == 40
    assert published_numbers(tmp_path / "ray") == published_numbers(tmp_path / "alone")


def test_a_run_that_fails_is_reported_and_not_tried_again(cluster, tmp_path):
    configs = STUDY.grid({"q": (1.0,), "seed": (0, 1), "hidden_size": (16,), "epochs": (1,)})
    options = RunOptions(tmp_path, device="cpu")
    broken = tmp_path / configs[0].folder / "checkpoint.safetensors"
    broken.parent.mkdir()
    broken.write_bytes(b"not a checkpoint")
    (tmp_path / "study.json").write_text('{"study": "autoencoder"}')
    start = time.monotonic()
    records, (failure,) = execute(STUDY, configs, options, SweepOptions(ray="auto"), Console(quiet=True))
    assert time.monotonic() - start < 120
    assert [record["run"] for record in records] == [configs[1].run]
    assert "checkpoint.safetensors cannot be resumed from" in failure.reason
    assert f"--out {tmp_path}" in failure.command


def test_the_progress_within_a_run_arrives(cluster, tmp_path):
    configs = STUDY.grid({"q": (1.0, 2.0), "hidden_size": (16,), "epochs": (60,)})
    log = []

    def on_progress(*report):
        log.append(report)

    for event in run_all(STUDY, configs, RunOptions(tmp_path, device="cpu"), SweepOptions(ray="auto"), on_progress):
        log += [(event.started, "starts")] * bool(event.started) + [(event.ended, "ends")] * bool(event.ended)
    for config in configs:
        first, *reports, last = (what for which, what in log if which == config)
        assert (first, last) == ("starts", "ends")
        assert all(before.epochs_done <= after.epochs_done for before, after in itertools.pairwise(reports))
        assert reports
        assert all(report.epochs == 60 and report.loss > 0 for report in reports)


def test_a_run_that_no_machine_has_room_for(cluster, tmp_path):
    configs = STUDY.grid({"threads": (1000,)})
    with pytest.raises(UserError, match="threads must be at most the 1 CPUs of the cluster's largest machine, got 1000"):
        execute(STUDY, configs, RunOptions(tmp_path, device="cpu"), SweepOptions(ray="auto"), Console(quiet=True))


def test_a_study_of_the_user_runs_on_the_cluster(cluster, here, capsys):
    flags = ["study", "lab.rings:STUDY", "--seed", "0", "1", "--device", "cpu"]
    assert main([*flags, "--ray", "auto", "--out", "ray"]) == 0
    assert "4 of 4 done, 0 running, 0 failed" in capsys.readouterr().out
    assert main([*flags, "--out", "alone"]) == 0
    assert len(published_numbers(here / "ray")) == 4
    assert published_numbers(here / "ray") == published_numbers(here / "alone")
    machine = json.loads(next(here.glob("ray/*/summary.json")).read_text())["provenance"]
    assert machine["command"].startswith("sparseout study lab.rings:STUDY ")
