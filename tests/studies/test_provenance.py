"""The commit in a record's provenance says whether the package was modified, and nothing about other files."""

import subprocess

from sparseout.records import provenance


def test_a_plus_marks_a_modified_package_alone(tmp_path, monkeypatch):
    package = tmp_path / "src" / "package"
    package.mkdir(parents=True)
    (code := package / "__init__.py").write_text("")
    (results := tmp_path / "results.jsonl").write_text("")
    monkeypatch.setattr(provenance.sparseout, "__file__", str(code))

    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    def commit():
        return provenance._commit.__wrapped__()

    assert commit() is None
    git("init")
    git("add", ".")
    git("-c", "user.name=Test", "-c", "user.email=test@example.org", "commit", "-m", "all")
    clean = commit()
    assert len(clean) == 12
    results.write_text("{}\n")
    assert commit() == clean
    (package / "new.py").write_text("")
    assert commit() == clean + "+"
    (package / "new.py").unlink()
    code.write_text("x = 1\n")
    assert commit() == clean + "+"
    git("checkout", "--", "src")
    assert commit() == clean
