"""Work that leaves all random states as they were."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from sparseout.layers import Sparseout


@contextlib.contextmanager
def keep_random_states(model: nn.Module, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Restore at the end the default generators of torch, Python and NumPy, those of the layers of `model`, and `generators`.

    The default generators of torch are those of the CPU and of the devices that hold tensors of `model`.
    """
    own = {layer.generator for layer in model.modules() if isinstance(layer, Sparseout) and layer.generator is not None}
    states = [(generator, generator.get_state()) for generator in {*own, *generators}]
    python, numpy = random.getstate(), sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    devices = {x.device for x in tensors if x.device.type not in ("cpu", "meta")}
    with torch.random.fork_rng(devices=[]), contextlib.ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.random.fork_rng(devices=[device.index], device_type=device.type))
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)
            random.setstate(python)
            if numpy:
                numpy.random.set_state(numpy_state)
