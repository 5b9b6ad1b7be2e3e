"""A Sphinx extension for this site: a page for each public module, links to the repository, and a check of the built pages."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).parent
REFERENCE_SECTION = re.compile(r"^## `(.*)`$", re.MULTILINE)
ENTRY = re.compile(r"^- `(\w+)\(.*?\)`: ", re.MULTILINE)
OUTSIDE = r"(?<!!)\[([^\][]*)\]\({up}([^)\s]*)\)"  # a link, not a picture, to a file of the repository
NAMES = re.compile(r"^ +\w+(?:, \w+)+: ")
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}  # what a browser loads by itself


def repository() -> str | None:
    """Return the address of the repository on GitHub, or None if neither the environment nor git knows it."""
    if "GITHUB_REPOSITORY" in os.environ:
        return f"https://github.com/{os.environ['GITHUB_REPOSITORY']}"
    git = subprocess.run(["git", "remote", "get-url", "origin"], cwd=DOCS, capture_output=True, text=True, check=False)
    found = re.fullmatch(r"(?:https://github\.com/|git@github\.com:)(.+?)(?:\.git)?", git.stdout.strip())
    return f"https://github.com/{found[1]}" if found else None


def link_repository(text: str, address: str | None, page: str = "index") -> str:
    """Make links of `page` to files outside docs/ lead to the repository; without an address, keep their text alone.

    >>> link_repository("[a](../src/a.py) [b](b.md) ![c](../c.png)", "https://github.com/x/y")
    '[a](https://github.com/x/y/blob/HEAD/src/a.py) [b](b.md) ![c](../c.png)'
    >>> link_repository("[a](../src/a.py) [![b](../b.png)](b.md)", None)
    'a [![b](../b.png)](b.md)'
    >>> link_repository("[a](../a.md) [b](../../src/b.py)", None, "tutorials/c")
    '[a](../a.md) b'
    """

    def linked(match: re.Match[str]) -> str:
        return f"[{match[1]}]({address}/blob/HEAD/{match[2]})" if address else match[1]

    return re.sub(OUTSIDE.format(up=re.escape("../" * (page.count("/") + 1))), linked, text)


def modules() -> dict[str, list[str]]:
    """Return the public names of each module, as reference.md lists them."""
    _, *parts = REFERENCE_SECTION.split((DOCS / "reference.md").read_text())
    return {module: ENTRY.findall(section) for module, section in zip(parts[::2], parts[1::2], strict=True)}


def module_page(module: str, names: list[str]) -> str:
    """Return the page of a module: the docstrings of `names`."""
    directives = ""
    for name in names:
        value = getattr(importlib.import_module(module), name)
        kind = "autoclass" if inspect.isclass(value) else "autofunction"
        directives += f".. {kind}:: {module}.{name}\n" + ("   :members:\n" if kind == "autoclass" else "") + "\n"
    return f"# `{module}`\n\n```{{eval-rst}}\n{directives}```\n"


def write_module_pages(app: Any, config: Any) -> None:
    """Write docs/api, whose pages hold the docstrings."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{module}.md": module_page(module, names) for module, names in modules().items()}
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        page = folder / name
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def on_source_read(app: Any, name: str, content: list[str]) -> None:
    """Change a page before it is parsed."""
    content[0] = link_repository(content[0], app.config.site_repository, name)
    if name == "reference":
        content[0] = link_entries(content[0])


def link_entries(text: str) -> str:
    """Make the entries of reference.md links to the pages of the modules."""
    head, *parts = REFERENCE_SECTION.split(text)
    for module, section in zip(parts[::2], parts[1::2], strict=True):
        linked = ENTRY.sub(lambda match, module=module: f"- {{py:obj}}`{match[1]} <{module}.{match[1]}>`: ", section)
        head += f"## `{module}`{linked}"
    pages = "\n".join(f"api/{module}" for module in parts[::2])
    return f"{head}\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


class Page(HTMLParser):
    """What a built page has: its anchors, what it links to, and what a browser loads for it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value is not None}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in FETCHED and FETCHED[tag] in values and values.get("rel") not in ("canonical", "author"):
            self.loaded.append(values[FETCHED[tag]])


def problems(site: Path) -> list[str]:
    """Return each link of the built pages that leads nowhere, and each request that they would send to another host."""
    pages = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        name = file.relative_to(site.resolve())
        found += [
            f"{name} loads {link}" for link in page.loaded if urlsplit(link).scheme in ("http", "https") or link[:2] == "//"
        ]
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.exists():
                found.append(f"{name} links to {link}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name} links to {link}, which has no such anchor")
    return found


def check(app: Any, exception: Exception | None) -> None:
    """Stop the build if a built page has a problem."""
    if exception is None and app.builder.format == "html" and (found := problems(Path(app.outdir))):
        from sphinx.errors import SphinxError

        raise SphinxError("\n".join(found))


def on_docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep `low, high: the bounds` one entry: Sphinx takes what is before a space for a type."""
    lines[:] = [NAMES.sub(lambda match: match[0].replace(", ", ","), line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    app.add_config_value("site_repository", repository(), "env")
    app.connect("config-inited", write_module_pages)
    app.connect("source-read", on_source_read)
    app.connect("autodoc-process-docstring", on_docstring, priority=1)  # before napoleon
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
