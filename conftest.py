"""Use Triton's interpreter on machines without a GPU, and skip files whose extra is not installed.

The interpreter has to be chosen before Triton is imported.
"""

import importlib.util
import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

_GLM = ("base", "cross_validation", "derivatives", "blocks", "estimators", "newton", "path_figure", "paths", "problem", "solvers")
collect_ignore = [] if importlib.util.find_spec("triton") else ["src/sparseout/op/gpu_kernel.py"]
if not importlib.util.find_spec("sklearn"):
    collect_ignore += [f"src/sparseout/glm/{name}.py" for name in _GLM]
if not importlib.util.find_spec("transformers"):
    collect_ignore += ["src/sparseout/control/transformers_callback.py"]
if not importlib.util.find_spec("msgspec"):
    collect_ignore += [f"src/sparseout/records/{name}.py" for name in ("choice", "provenance", "schema", "strict_json")]
if not importlib.util.find_spec("upath"):
    collect_ignore += ["src/sparseout/records/files.py"]
