"""`package.module:factory`: a model from a function in the user's module."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence, Sized
from pathlib import Path

from torch import nn

from sparseout.cli.probe import files, samples
from sparseout.cli.probe.probed_model import TARGET_KINDS, ProbedModel
from sparseout.errors import UserError
from sparseout.user_code import describe, import_module


def load(module: str, factory: str, data: Sequence[Path], batch_size: int) -> ProbedModel:
    """Import `module`, which runs its code, and call `factory()`, which returns a model, or a model and its batches.

    Raises:
        UserError: the function does not exist, fails, or returns something else.
    """
    sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module, f"TARGET must be {TARGET_KINDS}")
    finally:
        sys.path.pop(0)
    if not callable(make := getattr(found, factory, None)):
        functions = [name for name, value in vars(found).items() if callable(value)]
        close = difflib.get_close_matches(factory, functions, n=3)
        raise UserError(f"{module} has no function {factory!r}{': did you mean ' + ' or '.join(close) + '?' if close else ''}")
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise UserError(f"{module}:{factory}() failed: {describe(error)}") from error
    model, batches = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise UserError(f"{module}:{factory}() must return a torch.nn.Module, or one and its batches, got {type(model).__name__}")
    if data:
        batches = [part for file in files.list_files(data) for part in files.read_array(file).split(batch_size)]
    if batches is None:
        raise UserError(f"{module}:{factory}() returns a model without batches: pass --data with a .npy file of samples")
    count = len(batches) if isinstance(batches, Sized) else None
    return ProbedModel(model.eval(), batches, count, show=samples.image_tensors(batches))
