"""Relative tolerances against float64, by dtype: a few units in the last place."""

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RTOL = {dtype: 8 * torch.finfo(dtype).eps for dtype in DTYPES}
