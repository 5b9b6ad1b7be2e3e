"""Pages of reports, opened in a browser."""

import pytest


@pytest.fixture(scope="module")
def logged():
    """Messages, errors and requests of the pages, apart from the pages themselves."""
    return []


@pytest.fixture
def visit(browser, logged):
    """Open a page from a file in a context of its own. At the end of the test, nothing may be logged."""
    contexts = []

    def visit(path, **options):
        contexts.append(browser.new_context(**options))
        return opened(contexts[-1], path, logged)

    yield visit
    for context in contexts:
        context.close()
    assert_quiet(logged)


@pytest.fixture(scope="module")
def shared_context(browser):
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture(scope="module")
def shared_pages():
    return {}


@pytest.fixture
def revisit(shared_context, shared_pages, logged):
    """Open a page once for all tests of a file, and reset its choices. Tests that change more must `visit` it."""

    def revisit(path):
        if path not in shared_pages:
            page = opened(shared_context, path, logged)
            shared_pages[path] = page, page.evaluate("() => ({ ...state })")
        page, state = shared_pages[path]
        page.evaluate("initial => { Object.assign(state, initial); update(); drawAll(); }", state)
        return page

    yield revisit
    assert_quiet(logged)


def opened(context, path, logged):
    page = context.new_page()
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: logged.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(path.as_uri())
    assert logged.pop(0) == path.as_uri()
    page.wait_for_function("document.documentElement.dataset.ready")  # the plotting library is unpacked
    page.evaluate("drawAll()")  # also what is below the screen
    return page


def assert_quiet(logged):
    found = logged.copy()
    logged.clear()
    assert found == []
