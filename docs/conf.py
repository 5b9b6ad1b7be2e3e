"""The site: `make docs` builds it from these pages into build/site, and `site_build.py` has what Sphinx lacks for it."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # so that the tutorials print the same numbers on any number of cores

project = "Sparseout"
author = "The Sparseout authors"
project_copyright = author
(release,) = re.findall(r'^__version__ = "(.+)"$', (DOCS.parent / "src/sparseout/__init__.py").read_text(), re.MULTILINE)

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "site_build"]
exclude_patterns = ["_static"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # the anchors that GitHub gives
suppress_warnings = ["ref.python"]  # the attributes of several classes have one name, and nobody links to them
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS.parent / "build/jupyter-cache")
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True

default_role = "code"  # a name in backticks in a docstring is code
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "set_fit_request, set_predict_request, set_score_request"}  # scikit-learn's
python_maximum_signature_line_length = 90
napoleon_custom_sections = ["Shape"]
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"Sparseout {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
