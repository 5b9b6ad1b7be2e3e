"""The site holds every page once, its code runs or says why not, and the check of built pages finds what is broken."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "api")  # docs/api is generated
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
FENCE = re.compile(r"^```(\{?[\w-]*\}?)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CELL_OPTION = re.compile(r"^:[^\n]*\n", re.MULTILINE)
WORDS = 1_500


@pytest.fixture(scope="module")
def site_build():
    spec = importlib.util.spec_from_file_location("site_build", DOCS / "site_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(page):
    return page.relative_to(ROOT).as_posix()


def prose(text):
    """Return the text of a page without its code and its tables."""
    lines = FENCE.sub("", text).splitlines()
    return "\n".join(line for line in lines if not line.startswith(("|", "    ")))


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_a_page_is_short(page):
    words = len(prose(page.read_text()).split())
    assert words <= WORDS or page.name == "reference.md", words


def test_every_page_is_in_the_contents_once():
    trees = [body for kind, body in FENCE.findall((DOCS / "index.md").read_text()) if kind == "{toctree}"]
    listed = [line for body in trees for line in body.splitlines() if line and not line.startswith(":")]
    files = [*PAGES, *DOCS.glob("*.ipynb")]
    pages = [page.relative_to(DOCS).with_suffix("").as_posix() for page in files if page != DOCS / "index.md"]
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_python_blocks_run_or_say_why_not(page):
    """Doctests run with the other tests, cells when the site is built, and the README's first result in test_documentation.py."""
    text = page.read_text()
    for block in FENCE.finditer(text):
        kind, code = block.groups()
        is_run = ">>>" in code or (page.name == "README.md" and "## First result" in text[: block.start()][-400:])
        if kind == "python" and not is_run:
            line = text[: block.start()].rstrip().splitlines()[-1]
            assert line.startswith("<!-- not run: "), f"{name(page)} has a block without prompts and without a reason: {code}"


@pytest.mark.parametrize("page", TUTORIALS, ids=name)
def test_a_tutorial_is_a_notebook_whose_claims_are_asserted(page):
    text = page.read_text()
    assert text.startswith("---\nfile_format: mystnb\n")
    cells = [CELL_OPTION.sub("", code) for kind, code in FENCE.findall(text) if kind == "{code-cell}"]
    trees = [ast.parse(cell) for cell in cells]
    assert len(cells) >= 4
    assert any(isinstance(node, ast.Assert) for tree in trees for node in ast.walk(tree))


def test_a_make_target_that_a_page_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        found
        for page in [ROOT / "README.md", *PAGES]
        for found in re.findall(r"(?:`|^    )make ([a-z-]+)", page.read_text(), re.M)
    }
    assert named <= targets


def test_entries_of_the_reference_become_links(site_build):
    linked = site_build.link_entries("# API\n\n## `sparseout.probe`\n\nText.\n\n- `Summary(a, b=(1, 2))`: The measures.\n")
    assert "- {py:obj}`Summary <sparseout.probe.Summary>`: The measures." in linked
    assert "\napi/sparseout.probe\n" in linked


def test_a_page_of_a_module_has_its_classes_and_functions(site_build):
    page = site_build.module_page("sparseout.schedule", ["Linear"])
    assert ".. autoclass:: sparseout.schedule.Linear\n   :members:\n" in page
    assert ".. autofunction:: sparseout.swap_dropout\n" in site_build.module_page("sparseout", ["swap_dropout"])


def test_every_public_name_is_on_a_page(site_build):
    modules = site_build.modules()
    entries = re.findall(r"^- `", (DOCS / "reference.md").read_text(), re.MULTILINE)
    assert sum(map(len, modules.values())) == len(entries) > 40


@pytest.mark.parametrize(
    ("html", "problem"),
    [
        ('<a href="b.html">b</a>', None),
        ('<a href="b.html#there">b</a>', None),
        ('<a href="https://example.org">b</a>', None),
        ('<img src="b.html">', None),
        ('<link rel="canonical" href="https://example.org">', None),
        ('<a href="c.html">c</a>', "c.html, which does not exist"),
        ('<a href="b.html#nowhere">b</a>', "no such anchor"),
        ('<a href="#nowhere">b</a>', "no such anchor"),
        ('<img src="c.png">', "c.png, which does not exist"),
        ('<script src="https://cdn.example.org/a.js"></script>', "loads https://cdn.example.org/a.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', "loads //fonts.example.org/a.css"),
    ],
)
def test_the_check_of_built_pages(site_build, tmp_path, html, problem):
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h1 id="there">b</h1>')
    found = site_build.problems(tmp_path)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]
