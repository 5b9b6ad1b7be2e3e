"""`drop_dead`: removes the units between two linear layers that a data set never activates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sparseout.inference import observe
from sparseout.inference.drop_report import Dropped, DropReport
from sparseout.inference.report import Refusal

_EVERY = 5  # one batch in five is held out
_MOST_HELD_OUT = 20  # batches
_TOLERANCE = 1e-4  # relative, between outputs that only differ in the order of sums


def drop_dead(model: nn.Module, loader: Iterable[Any], *, inplace: bool = False) -> DropReport:
    """Remove the units between two linear layers that are zero on every sample of `loader`, from both of their weights.

    The result is a smaller dense model. A unit can be removed if it lies in a chain `nn.Linear -> ReLU -> nn.Linear`. Such
    chains are found by running the model: the second layer's input must be non-zero exactly where the first layer's output is
    positive. Identities such as Dropout in evaluation mode may lie in between. Each removal is then tried: if the outputs on a
    batch change, another part of the model reads the units, and they are kept.

    A removed unit was not seen to fire in the samples of `loader`. Other data may activate it, so every fifth batch is held out,
    and the report gives the largest change of the outputs there.

    Args:
        model: in evaluation mode and on the CPU.
        loader: at least two batches, read as `sparseout.batches.arguments` says. The first one and every fifth after it are held
            out, up to 20 batches.
        inplace: change `model` instead of a copy. The parameters stay the same objects and become smaller.

    Returns:
        A `DropReport`; its `model` is `model` if in place, else the changed copy.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, the loader has fewer than two batches, or the model is compiled,
            in training mode or on another device. Nothing is changed then.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1)).eval()
    >>> with torch.no_grad():
    ...     _ = model[0].bias.copy_(torch.tensor([9.0, -9.0, 9.0]))
    >>> report = sparseout.drop_dead(model, [torch.rand(10, 4), torch.rand(10, 4)])
    >>> report.dropped[0]
    Dropped(first='0', second='2', units=3, removed=(1,), samples=10)
    >>> report.model[0], report.difference < 1e-6
    (Linear(in_features=4, out_features=2, bias=True), True)
    """
    observe.check_model(model)
    layers, reasons = observe.linear_layers(model)
    search = _Search(layers)
    held_out: list[Any] = []
    last = None
    for index, batch in enumerate(loader):
        if index % _EVERY == 0 and len(held_out) < _MOST_HELD_OUT:
            held_out.append(batch)
        else:
            last = batch
            search.run(model, observe.runner(model, batch))
    if last is None:
        raise ValueError(f"loader must have at least two batches, one of them held out, got {len(held_out)}")
    changed = model if inplace else copy.deepcopy(model)
    originals = [_outputs(model, batch) for batch in held_out]
    chains, why_not = search.chains()
    reasons.update(why_not)
    dropped = []
    for chain in chains:
        reason = _remove(changed, chain, last)
        if reason:
            reasons[chain.second] = reason
        else:
            dropped.append(Dropped(chain.first, chain.second, len(chain.fired), tuple(chain.dead()), chain.samples))
    differences = [_difference(before, _outputs(changed, batch)) for before, batch in zip(originals, held_out, strict=True)]
    difference, largest = (max(values) for values in zip(*differences, strict=True))
    refused = tuple(Refusal(*each) for each in reasons.items())
    return DropReport(changed, tuple(dropped), difference, largest, len(held_out), refused, not inplace)


@dataclass
class _Chain:
    """Two linear layers with ReLU between them, and which of the units between them fired."""

    first: str
    second: str
    fired: Tensor
    samples: int = 0

    def dead(self) -> list[int]:
        dead: list[int] = (~self.fired).nonzero()[:, 0].tolist()
        return dead if len(dead) < len(self.fired) else dead[1:]  # a layer keeps a unit


@dataclass
class _Search:
    """Finds chains while batches run. `found` maps the name of a second layer to its chain, or to the reason why it has none."""

    layers: dict[str, nn.Linear]
    found: dict[str, _Chain | str] = field(default_factory=dict)

    def run(self, model: nn.Module, run: observe.Run) -> None:
        outputs: dict[str, Tensor] = {}
        calls: set[str] = set()

        def wrap(name: str, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
            def forward(input: Tensor) -> Tensor:
                if name in calls:
                    self.found[name] = "it is called several times in one forward pass"
                calls.add(name)
                self._read(name, input, outputs)
                outputs[name] = nn.Linear.forward(layer, input)
                return outputs[name].clone()  # an activation in place would overwrite the kept output

            return forward

        with observe.wrapped({name: (layer, wrap(name, layer)) for name, layer in self.layers.items()}):
            run(model)

    def _read(self, name: str, input: Tensor, outputs: dict[str, Tensor]) -> None:
        known = self.found.get(name)
        if isinstance(known, str):
            return
        if known is None:
            matches = [each for each, output in outputs.items() if _is_relu(output, input)]
            if not matches:
                self.found[name] = "its input is not the ReLU of a linear layer's output"
                return
            known = self.found[name] = _Chain(matches[-1], name, torch.zeros(input.shape[-1], dtype=torch.bool))
        elif known.first not in outputs or not _is_relu(outputs[known.first], input):
            self.found[name] = f"its input is not always the ReLU of the output of {known.first}"
            return
        rows = input.reshape(-1, input.shape[-1])
        known.fired |= (rows != 0).any(0)
        known.samples += len(rows)

    def chains(self) -> tuple[list[_Chain], dict[str, str]]:
        """Return the chains with dead units, and the reason why each other layer has none."""
        reasons = dict.fromkeys(self.layers, "not called on the samples; another module may read its weight")
        reasons.update({name: found for name, found in self.found.items() if isinstance(found, str)})
        chains = []
        found = [each for each in self.found.values() if isinstance(each, _Chain)]
        for chain in found:
            reasons.pop(chain.second)
            readers = [each.second for each in found if each.first == chain.first]
            if isinstance(known := self.found[chain.first], str) and "several times" in known:
                reasons[chain.second] = f"{chain.first} is called several times in one forward pass"
            elif len(readers) > 1:
                reasons[chain.second] = f"the output of {chain.first} is read by {' and '.join(readers)}"
            elif chain.fired.all():
                reasons[chain.second] = f"all {len(chain.fired)} units before it fired"
            else:
                chains.append(chain)
        return chains, reasons


def _is_relu(output: Tensor, input: Tensor) -> bool:
    """Whether `input` is not zero exactly where `output` is positive."""
    return output.shape == input.shape and torch.equal(output > 0, input != 0)


def _remove(model: nn.Module, chain: _Chain, batch: Any) -> str:
    """Remove the dead units of a chain, or return the reason why that changes the outputs on a batch on which they are zero."""
    first, second = model.get_submodule(chain.first), model.get_submodule(chain.second)
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    before = _outputs(model, batch)
    removed = set(chain.dead())
    kept = torch.tensor([unit for unit in range(len(chain.fired)) if unit not in removed])
    held = [(first, "weight", 0), (first, "bias", 0), (second, "weight", 1)]
    parameters = [(getattr(layer, name), dim) for layer, name, dim in held if getattr(layer, name) is not None]
    old = [parameter.data for parameter, _ in parameters]
    for parameter, dim in parameters:
        parameter.data, parameter.grad = parameter.data.index_select(dim, kept), None
    first.out_features = second.in_features = len(kept)
    try:
        difference, largest = _difference(before, _outputs(model, batch))
        reason = "" if difference <= _TOLERANCE * largest else "the outputs change"
    except Exception as error:
        reason = f"the model fails ({str(error).partition(chr(10))[0]})"
    if not reason:
        return ""
    for (parameter, _), data in zip(parameters, old, strict=True):
        parameter.data = data
    first.out_features = second.in_features = len(chain.fired)
    return f"{reason} without the dead units before it: another part of the model reads them"


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(observe.runner(model, batch)(model))
    return [leaf.double() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[float, float]:
    """Return the largest difference between two lists of outputs, and their largest magnitude."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.numel()]
    difference = max(((a - b).abs().max().item() for a, b in pairs), default=0.0)
    return difference, max((a.abs().max().item() for a, _ in pairs), default=0.0)
