"""The progress bar: after a second, on a terminal or in a notebook, and nowhere else."""

import io
import subprocess
import sys
import types

import pytest

from sparseout import progress

pytest.importorskip("rich")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def use_terminal(monkeypatch):
    """Make standard error a terminal. Fixtures cannot, because pytest replaces it at the start of a test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_DELAY", -1.0)
    monkeypatch.setattr(progress, "_INTERVAL", -1.0)


def test_items_pass_through_and_a_short_loop_shows_nothing(monkeypatch):
    terminal = use_terminal(monkeypatch)
    assert list(progress.track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert terminal.getvalue() == ""


def test_a_long_loop_shows_its_items_and_their_total(monkeypatch, at_once):
    terminal = use_terminal(monkeypatch)
    list(progress.track([1, 2], "[red]batches"))
    assert "[red]batches" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_without_a_terminal_nothing_is_shown(at_once, capsys):
    list(progress.track([1, 2], "batches"))
    assert capsys.readouterr() == ("", "")


def test_an_error_in_the_loop_ends_the_bar(monkeypatch, at_once):
    terminal = use_terminal(monkeypatch)

    def fail():
        with progress.counting("batches", 3) as advance:
            advance()
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert terminal.getvalue().rstrip("\r").endswith(("\x1b[2K", "\x1b[?25h"))


def test_without_rich_there_is_no_bar():
    program = (
        "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None\n"
        "from sparseout import progress; progress._DELAY = -1; print(list(progress.track([1, 2], 'batches')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[1, 2]\n", "")


def test_a_notebook_shows_html_that_disappears(monkeypatch, at_once):
    shown = []

    class Handle:
        def update(self, html):
            shown.append(html)

    display = types.SimpleNamespace(HTML=str, display=lambda html, display_id: Handle())
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    list(progress.track(iter("ab"), "<fits>"))
    list(progress.track("ab", "fits"))
    assert shown[0] == "<div>&lt;fits&gt; <progress></progress> 1, 0 s</div>"
    assert shown[3].startswith('<div>fits <progress value="1" max="2"></progress> 1 of 2, ')
    assert (shown[2], shown[5]) == ("", "")
