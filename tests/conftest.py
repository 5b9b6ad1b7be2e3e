"""How many examples hypothesis draws, and fixtures for all tests."""

import gc
import shutil

import hypothesis
import pytest

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

hypothesis.settings.register_profile("default", max_examples=20, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True, scope="module")
def frozen_heap():
    """Keep what was loaded before out of garbage collection: runs collect at their end, and pytest's heap is large."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium under Playwright; the tests that need it are skipped if either is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
