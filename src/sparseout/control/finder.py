"""`find_q`: train a copy of a model at one `q` after another, and see which sparsity a target can reach."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparseout.checks import check_choice, check_count, check_p
from sparseout.control.found_range import FoundRange, Point
from sparseout.control.input_probe import InputProbe
from sparseout.control.settings import (
    CONTROLLED_MEASURES,
    Settings,
    check_bounds,
    check_layers,
    check_number_bounds,
    initial_p,
)
from sparseout.dial import Dial
from sparseout.probe.selection import Layers
from sparseout.progress import counting
from sparseout.random_states import keep_random_states
from sparseout.torch_internals import uncompiled

CLEAN_BATCHES = 4  # on which sparsity and loss are measured

Optimizer = torch.optim.Optimizer


def find_q(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
    *,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    measure: str = "hoyer",
    layers: Layers = None,
    bounds: tuple[float, float] | None = None,
    p: tuple[float, float] | None = None,
    points: int = 5,
    steps: int = 200,
) -> FoundRange:
    """`S(q)` and `loss(q)` of a short training over a range of `q`, and the sparsities `S` that a `SparsityTarget` can reach.

    A copy of `model` trains `steps` steps with `q = 2`. From there, one copy of it trains at each of `points` values of `q` down
    to the lower bound, and another up to the upper bound, `steps` steps at each. Sparsity and loss are measured in evaluation
    mode, without noise, on the first four batches of `loader`, after half of the steps of a point and at its end. All layers have
    the same `q`, as with `SparsityTarget(mean=True)`. The copy at the lower bound then trains as many steps at the upper bound:
    the text says so if its sparsity does not come back.

    The range is what was seen, from where the training of `model` is now, and no promise beyond that. Early in its training, a
    network becomes sparser by itself. So train it with `q = 2` for a while first, as in the warm-up of a target.

    Any layer with a `dial` is measured in the same way: `q` stands for its number, which starts where the layer acts least. For
    penalties, whose strength spans twelve decades, choose `bounds` that span a few.

    `model`, its gradients and layers, all random states and those of the loader's samplers stay as they were. Needs memory for
    three copies of the model and two of the optimizer. In distributed training, call it on the model itself, in one process.

    Args:
        model: holds the layers. If it is in evaluation mode, all of the copy trains.
        loader: batches, which can be iterated over several times.
        loss: function of a model and a batch that calls the model and returns the training loss, a scalar. With penalties it adds
            `sparseout.penalty(model)`.
        optimizer: function from the list of parameters to an optimizer. Default: Adam with a learning rate of 1e-3. Use that of
            your training, with its present learning rate.
        measure, layers, bounds, p: as in `SparsityTarget`. With `p`, two more points on each side move `p` to its bounds.
        points: number of values of `q` on each side of 2.
        steps: number of steps at each point, at least 2. A network takes long to follow `q`: more steps find a wider range.

    Returns:
        A `FoundRange`. Its text is a table; `plot()` draws it.

    Raises:
        TypeError, ValueError: an argument is invalid, `loader` has no batches or is an iterator, or `loss` is no scalar.

    >>> import torch.nn.functional as F
    >>> from sparseout import Sparseout, SparsityTarget
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), Sparseout(p=0.5), nn.Linear(32, 16))
    >>> data = torch.rand(8, 64, 16)
    >>> found = find_q(model, data, lambda model, x: F.mse_loss(model(x), x), points=2)
    >>> [point.value for point in found.points], model[2].q
    ([0.3, 1.15, 2.0, 3.0, 4.0], 2.0)
    >>> low, high = found.range
    >>> target = SparsityTarget(model, (low + high) / 2, bounds=found.bounds)
    """
    check_choice("measure", measure, CONTROLLED_MEASURES)
    check_count("points", points, 1)
    check_count("steps", steps, 2)
    if isinstance(loader, Iterator):
        raise TypeError(f"loader must be iterable several times, such as a DataLoader or a list, got a {type(loader).__name__}")
    modules = InputProbe(model, layers, measure, None, None).layers
    check_layers(modules, True, p is not None)
    p_bounds = None if p is None else check_bounds("p", p, check_p)
    settings = Settings(measure, True, check_number_bounds(bounds, modules), p_bounds, every=1, warmup=0, ramp=0)
    with contextlib.ExitStack() as stack, keep_random_states(model, _generators_of(loader)), torch.enable_grad():
        clean = list(itertools.islice(loader, CLEAN_BATCHES))
        if not clean:
            raise ValueError(f"loader must have at least one batch, got an empty {type(loader).__name__}")
        dial: Dial = next(iter(modules.values())).dial
        neutral, (sparse, dense) = _outputs(settings, dial, points)
        holds = 1 + len(sparse) + len(dense) + bool(sparse)
        advance = stack.enter_context(counting("steps of find_q", steps * holds))
        task = _Task(loader, clean, loss, steps, settings, tuple(modules), initial_p(modules, p_bounds), advance)
        copied = copy.deepcopy(uncompiled(model))
        if not copied.training:
            copied.train()
        parameters = [each for each in copied.parameters() if each.requires_grad]
        start = _Training(copied, optimizer(parameters) if optimizer else torch.optim.Adam(parameters, 1e-3), task)
        found = {neutral: start.hold(neutral)}

        def follow(side: list[float]) -> _Training:
            training = start.branch()
            for output in side:
                found[output] = training.hold(output)
                if not found[output].is_finite:
                    break
            return training

        training = follow(sparse)
        is_sparser = bool(sparse) and found[min(found)].is_finite
        returned = training.hold([neutral, *dense][-1]) if is_sparser else None
        follow(dense)
    ordered = sorted(found)
    return FoundRange(dial.name, measure, tuple(map(found.__getitem__, ordered)), ordered.index(neutral), steps, returned)


class _Task(NamedTuple):
    """What the copies of the model do: the arguments of `find_q`, the `p` of each layer at first, and what counts the steps."""

    loader: Iterable[Any]
    clean: list[Any]
    loss: Callable[[nn.Module, Any], Tensor]
    steps: int
    settings: Settings
    layers: tuple[str, ...]
    initial_p: dict[str, float]
    advance: Callable[[], None]


class _Training:
    """A copy of the model in training."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, task: _Task) -> None:
        self._model, self._optimizer, self._task = model, optimizer, task
        self._inputs = InputProbe(model, list(task.layers), task.settings.measure, task.clean, self._evaluate)
        self._batches = _repeated(task.loader)
        self._losses: list[float] = []

    def branch(self) -> _Training:
        """Return a copy, which trains on its own."""
        # Copied together, so that the optimizer has the parameters of the copy.
        model, optimizer = copy.deepcopy((self._model, self._optimizer))
        return _Training(model, optimizer, self._task)

    def hold(self, output: float) -> Point:
        """Train with the number at `output`, and measure at the end."""
        for name, module in self._inputs.layers.items():
            self._task.settings.apply(module, output, self._task.initial_p.get(name))
        half = self._task.steps // 2
        before, loss_before = self._train_and_measure(half)
        after, loss = self._train_and_measure(self._task.steps - half)
        first = next(iter(self._inputs.layers.values()))
        return Point(
            value=float(getattr(first, first.dial.name)),
            p=first.p if self._task.settings.p else None,
            loss=loss,
            loss_before=loss_before,
            sparsity=after,
            moved={name: value - before.get(name, math.nan) for name, value in after.items()},
        )

    def _train_and_measure(self, steps: int) -> tuple[dict[str, float], float]:
        """Train, and return the clean sparsity of each layer that ran, and the clean loss."""
        for batch in itertools.islice(self._batches, steps):
            self._optimizer.zero_grad()
            _scalar(self._task.loss(self._model, batch)).backward()
            self._optimizer.step()
            self._task.advance()
        self._losses.clear()
        measured = self._inputs.evaluate(self._task.layers, sys.maxsize)
        if not measured:
            raise ValueError("loss must call the model that it is given, but none of the layers ran")
        sparsity = {name: each[self._task.settings.measure] for name, each in measured.items()}
        return sparsity, sum(self._losses) / len(self._losses)

    def _evaluate(self, batch: Any) -> None:
        self._losses.append(float(_scalar(self._task.loss(self._model, batch))))


def _outputs(settings: Settings, dial: Dial, points: int) -> tuple[float, list[list[float]]]:
    """Return the output at which layers act least, and those on each side of it, from there to the bounds."""
    low, high = settings.positions(dial)
    neutral = min(max(dial.position(dial.warmup_value), low), high)
    sides = [
        [end + (neutral - end) * i / points for i in reversed(range(points))] if end != neutral else [] for end in (low, high)
    ]
    if settings.p:  # beyond a bound of the number, one step of output is the range of p
        sides[0] += [low - 0.5, low - 1.0]
        sides[1] += [high + 0.5, high + 1.0]
    return neutral, sides


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"loss must return a tensor of one element, got {got}")
    return loss


def _repeated(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def _generators_of(loader: Any) -> list[torch.Generator]:
    """Return the generators from which a `DataLoader` draws the order of its samples."""
    batches = getattr(loader, "batch_sampler", None)
    holders = (loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    return [generator for generator in found if isinstance(generator, torch.Generator)]
