"""Before Triton is imported: its interpreter runs the GPU kernel where there is no GPU."""

import importlib.util
import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

collect_ignore = [] if importlib.util.find_spec("triton") else ["src/sparseout/kernels/gpu_kernel.py"]
