"""The notebooks of the documentation run, and their cells show tables and figures."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

DOCS = Path(__file__).parents[2] / "docs"


def run(notebook, folder):
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("path", sorted(DOCS.glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs_and_shows_what_it_makes(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    for cell in (cell for cell in run(notebook, tmp_path).cells if cell.cell_type == "code"):
        (shown,) = [output for output in cell.outputs if output.output_type == "execute_result"]
        assert {"text/html", "image/png"} & set(shown.data), cell.source
        assert len(shown.data["text/plain"]) < 2000
        assert not [output for output in cell.outputs if output.output_type == "stream"], cell.source


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_progress_bar_appears_in_a_notebook_and_disappears(tmp_path):
    source = "import time\nfrom sparseout.progress import track\nfor _ in track(range(4), 'batches'):\n    time.sleep(0.6)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    updates = []
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    process = client.process_message
    client.process_message = lambda message, *rest: (updates.append(message), process(message, *rest))[1]
    client.execute()
    html = [m["content"]["data"]["text/html"] for m in updates if m["msg_type"] in ("display_data", "update_display_data")]
    assert html[0] == html[-1] == ""
    assert any('max="4"' in text for text in html)
