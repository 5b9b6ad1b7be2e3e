"""Links between the pages work, the tests that they name exist, and the README's first result is what its code prints."""

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/tutorials").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+\.\d+|\d+")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def anchors(page):
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_has_a_target(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(page.read_text()) if not link.startswith("https://"))
        waiting += [page.parent / link for link in links if link]
    assert {page.resolve() for page in PAGES} <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_named_test_file_exists(page):
    names = set(re.findall(r"`(?:tests/\w+/)?(test_\w+\.py)`", page.read_text()))
    assert names <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}


def test_contributing_lists_every_part_of_the_package():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| contents |\n")[1].split("\n\n")[0]
    listed = [name.rstrip("/") for row in table.splitlines()[1:] for name in re.findall(r"`([\w.]+/?)`", row.split("|")[1])]
    parts = {path.name for path in (ROOT / "src" / "sparseout").iterdir() if not path.name.startswith(("_", ".", "py."))}
    assert sorted(listed) == sorted(parts)


def test_the_first_result_is_what_the_code_prints(one_thread):
    section = README.read_text().split("## First result")[1].split("\n## ")[0]
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", section, re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    found, expected = ([float(number) for number in NUMBER.findall(text)] for text in (out.getvalue(), printed))
    assert found == pytest.approx(expected, abs=0.02)
