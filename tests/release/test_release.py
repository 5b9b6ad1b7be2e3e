"""The version stands in one place, the workflows run what a person can run, and `make release-check` fails when it must."""

import re
from pathlib import Path

import check
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sparseout

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow):
    """Yield the steps of a workflow, each with the values that its job's matrix gives to `TARGET`."""
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        rows = job.get("strategy", {}).get("matrix", {}).get("include", [])
        for step in job.get("steps", []):
            yield step, [row["target"] for row in rows if "target" in row]


def test_the_version_agrees_everywhere():
    assert check.version() == sparseout.__version__
    assert check.version_problems(f"v{sparseout.__version__}") == []


def test_another_tag_or_citation_is_a_problem(tmp_path, monkeypatch):
    assert check.version_problems("v9.9") == [f"the tag must be v{sparseout.__version__}, got v9.9"]
    (tmp_path / "src/sparseout").mkdir(parents=True)
    (tmp_path / "src/sparseout/__init__.py").write_text('__version__ = "9.9"\n')
    for name in ("CITATION.cff", "CHANGELOG.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(check, "ROOT", tmp_path)
    citation, changelog = check.version_problems(None)
    assert "CITATION.cff" in citation
    assert "CHANGELOG.md" in changelog


def test_a_check_that_fails_is_in_the_table_with_its_output(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "LOGS", tmp_path / "logs")
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "a-1.2-py3-none-any.whl").write_bytes(b"0" * 250_000)
    monkeypatch.setattr(check, "version", lambda: "1.2")
    monkeypatch.setattr(check, "CHECKS", {"good": "true", "bad": "echo why; false"})
    monkeypatch.setattr("sys.argv", ["check.py"])
    assert check.main() == 1
    out = capsys.readouterr().out
    assert re.search(r"^good +passed +\d+\.\d$", out, re.MULTILINE)
    assert re.search(r"^bad +FAILED +\d+\.\d$", out, re.MULTILINE)
    assert "\na-1.2-py3-none-any.whl: 0.25 MB\n" in out
    assert out.endswith("logs/bad.log:\nwhy\n")
    monkeypatch.setattr("sys.argv", ["check.py", "good"])
    assert check.main() == 0


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_make_targets_alone(workflow):
    for step, targets in steps(workflow):
        command = step.get("run")
        if command is None or step.get("if") == "runner.os == 'Windows'":  # which has no make
            continue
        found = re.fullmatch(r'make ("\$TARGET"|[a-z-]+)(?: TAG="\$GITHUB_REF_NAME")?', command)
        assert found, command
        named = targets if found[1] == '"$TARGET"' else [found[1]]
        assert named
        assert set(named) <= TARGETS


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_to_a_commit_and_keep_no_token(workflow):
    for step, _ in steps(workflow):
        if "uses" in step:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    assert yaml.safe_load(workflow.read_text())["permissions"] == {}


def test_the_targets_are_phony():
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert set(phony) == TARGETS


def pins(name):
    """Return the requirements of a file of constraints by the name of the package; one package may have a pin for each Python."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), line
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def names(requirements):
    """Return the names of the packages that are required."""
    return {canonicalize_name(Requirement(each).name) for each in requirements} - {"sparseout"}


def test_what_make_installs_is_pinned():
    tomllib = pytest.importorskip("tomllib")
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, extras = content["project"], content["project"]["optional-dependencies"]
    pinned, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    assert names(sum(extras.values(), project["dependencies"] + content["dependency-groups"]["release"])) <= set(pinned)
    assert names(project["dependencies"] + extras["test"]) <= set(oldest)
    for chosen in map(Requirement, content["tool"]["uv"]["constraint-dependencies"]):
        assert [pin.specifier for pin in pinned[chosen.name]] == [chosen.specifier]
    lowest = {each.name: each.specifier for each in map(Requirement, project["dependencies"])}["torch"]
    assert [str(pin.specifier) for pin in oldest["torch"]] == [str(lowest).replace(">=", "==") + ".0"]
