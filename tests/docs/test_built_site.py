"""The site builds without a warning, its search finds what a reader types, and its pages fit on a telephone."""

import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["index", "tutorials/control", "tutorials/measure", "results-methods", "results-targets", "choosing", "reference"]
pytestmark = pytest.mark.slow


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; the tutorials come from the cache of `make docs`, if it has them."""
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-d", folder / "doctrees"]
    built = subprocess.run([*command, DOCS, folder / "html"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def address(site):
    """The address of the site, served from this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_site_builds_without_a_warning(site):
    """Among the warnings: a broken link or anchor, a page that is in no contents, a tutorial that raises."""
    reference = (site / "reference.html").read_text()
    assert len(re.findall(r'class="reference internal" href="api/[\w.]+\.html#', reference)) > 40
    assert "Traceback" not in "".join(page.read_text() for page in (site / "tutorials").glob("*.html"))


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ("SparsityTarget", "target.html"),
        ("swap_dropout", "in-your-model.html"),
        ("hoyer", "api/sparseout.metrics.html"),
        ("accelerate", "studies.html"),
    ],
)
def test_a_search_finds_the_page(browser, address, query, page):
    tab = browser.new_page()
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address + "/index.html")
    tab.get_by_placeholder("Search").fill(query)
    tab.keyboard.press("Enter")
    tab.wait_for_selector("ul.search li a")
    tab.wait_for_function("document.querySelector('.search-summary').textContent.match(/found \\d+ page|Search finished/)")
    results = [link.get_attribute("href") for link in tab.query_selector_all("ul.search li > a")]
    tab.close()
    assert any(result.partition("#")[0].partition("?")[0] == page for result in results[:10]), results
    assert all(url.startswith((address, "data:")) for url in requests)


def test_a_search_for_nonsense_finds_nothing(browser, address):
    tab = browser.new_page()
    tab.goto(address + "/search.html?q=xyzzyplugh")
    tab.wait_for_function("document.querySelector('.search-summary')?.textContent.includes('did not match')")
    assert tab.query_selector_all("ul.search li") == []
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_on_a_telephone_and_has_no_error(browser, address, page, scheme):
    tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(f"{address}/{page}.html")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()
    assert errors == []
