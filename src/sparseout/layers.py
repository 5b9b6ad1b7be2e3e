"""Sparseout as a module, in the place of `torch.nn.Dropout`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from sparseout.checks import GRADIENTS, Gradient, check_choice, check_eps, check_layer_scale, check_p, check_q, check_rms_gradient
from sparseout.dial import Dial
from sparseout.op.backends import is_plain
from sparseout.op.dtensor import local_of
from sparseout.op.functional import sparseout
from sparseout.op.running_rms import RunningRMS


class Sparseout(nn.Module):
    """`y = x + s sign(x) |x/s|^(q/2) n` in training, `y = x` in evaluation: `sparseout.sparseout` as a layer.

    `p`, `q` and `scale` may be set while a model trains: they are checked when they are set, and a compiled model does not
    recompile, unless `scale` becomes `"rms"` or ceases to be. As those of `nn.Dropout`, the settings are not in the `state_dict`.

    With `scale="rms"`, `q` means the same in a layer of any magnitude: `s` is the running root mean square of the layer's input,
    `s_t^2 = 0.9 s_(t-1)^2 + 0.1 mean(x_(t-1)^2)` over the training batches before this one, and that of the batch itself in the
    first. The mean is over all elements of a batch below 8192, else over an evenly spread 2731 to 5461 of them. A batch whose
    mean is 0, NaN or Inf leaves `s` alone. The gradient holds it constant.

    It is the buffer `running_rms`, the layer's one key in the `state_dict`: 0 while there is none, and NaN, Inf and negative
    values count as none too. Loading restores it. Where a `state_dict` lacks it (`strict=False`, `from_pretrained`), and after
    `to_empty()`, the next batch sets it, as in a new layer. `DistributedDataParallel` broadcasts it from rank 0 before each call,
    as it does BatchNorm's; in the first call each rank's `s` is its own.

    A layer learns `s` from the calls in training mode that record gradients. Under `no_grad`, for example in Monte Carlo dropout,
    it uses the `s` that it has and learns nothing.

    For a `DTensor` it is that of the full tensor, the same on all ranks.

    `torch.fx.symbolic_trace` records a call of the layer, which goes on following `train()`, `eval()`, `p` and `q`.
    `torch.jit.script` raises, and so does `torch.jit.trace` in training.

    Activation checkpointing recomputes a call with the `s` that it had, found by the layer and the call's seed among the last
    16384 calls. It finds another's where one layer is called twice with one seed before the backward pass, or where compiled
    layers are seeded alike, and the present one in a CUDA graph. Transforms of `torch.func` leave `running_rms` alone.

    Args:
        p: drop probability in [0, 1].
        q: norm, at least 0: 2 is Dropout, less makes activations sparser, more makes them denser.
        inplace: write the result into the input.
        scale: `s`, the unit in which `|x|` is measured, a positive number; or `"rms"`.
        gradient: `"detached"` or `"exact"`; with `scale="rms"` only the first.
        eps: positive bound of the backward factor for `q < 2`; None is 1e-6.
        shared_dims: dimensions along which one draw is shared.
        generator: source of the seeds; None is the default generator of the input's device.

    Shape:
        Input and output: any shape, the same.

    Raises:
        TypeError, ValueError: as `sparseout.sparseout` does, when the layer is built (the generator's device and the range of
        `shared_dims` when it is called).

    Source: Khan and Stavness (2019), arXiv:1904.08050.

    >>> layer = Sparseout(p=0.5, q=1.5)
    >>> layer
    Sparseout(p=0.5, q=1.5)
    >>> _ = torch.manual_seed(0)
    >>> layer(torch.full((6,), 0.0625))
    tensor([-0.0625,  0.1875, -0.0625, -0.0625, -0.0625,  0.1875])
    >>> layer.q = 2.0
    >>> layer.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    dial: ClassVar[Dial] = Dial("q", 0.3, 4.0, sparser="down", neutral=2.0)

    # The module whose place this layer took, where `sparseout.swap_dropout` put it: in a tuple, so that it is not a submodule.
    replaced: tuple[nn.Module, ...] = ()
    running_rms: Tensor

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        inplace: bool = False,
        *,
        scale: float | Literal["rms"] = 1.0,
        gradient: Gradient = "detached",
        eps: float | None = None,
        shared_dims: int | Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("gradient", gradient, GRADIENTS)
        if eps is not None:
            check_eps(eps)
        self._p, self._q, self.inplace = check_p(p), check_q(q), inplace
        self.gradient, self.eps = gradient, eps
        self.shared_dims = tuple(shared_dims) if isinstance(shared_dims, Sequence) else shared_dims
        self.generator = generator
        self._scale: float | Literal["rms"] = 1.0
        self._make_cells()
        self.scale = scale

    @property
    def p(self) -> float:
        """Drop probability in [0, 1]."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = check_p(value)
        self._p_cell.fill_(self._p)

    @property
    def q(self) -> float:
        """Norm, at least 0."""
        return self._q

    @q.setter
    def q(self, value: float) -> None:
        self._q = check_q(value)
        self._q_cell.fill_(self._q)

    @property
    def scale(self) -> float | Literal["rms"]:
        """The unit in which `|x|` is measured, or `"rms"`."""
        return self._scale

    @scale.setter
    def scale(self, value: float | Literal["rms"]) -> None:
        value = check_layer_scale(value)
        if value == "rms":
            check_rms_gradient(self.gradient)
            if self._scale != "rms":
                self.register_buffer("running_rms", torch.zeros((), dtype=torch.float32))
        else:
            self._buffers.pop("running_rms", None)
            self._scale_cell.fill_(value)
        self._scale = value

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return self._called_in(input.tracer, input)
        p, q, scale = self._current_settings(input)
        return sparseout(
            input,
            p,
            q,
            self.training,
            self.inplace,
            scale=scale,
            gradient=self.gradient,
            eps=self.eps,
            shared_dims=self._shared_dims_of(input),
            generator=self.generator,
        )

    def _shared_dims_of(self, input: Tensor) -> int | Sequence[int]:
        """The dimensions of `input` along which one draw is shared."""
        return self.shared_dims

    def reset_parameters(self) -> None:
        """Forget the running scale, if there is one: the next batch sets it."""
        if "running_rms" in self._buffers:
            self.running_rms.zero_()

    def settings(self) -> dict[str, Any]:
        """The arguments that would build this layer again."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if hasattr(self, name)}

    def extra_repr(self) -> str:
        defaults = {name: parameter.default for name, parameter in inspect.signature(type(self)).parameters.items()}
        others = {name: value for name, value in self.settings().items() if name not in ("p", "q")}
        shown = [f"{name}={value!r}" for name, value in others.items() if value != defaults[name]]
        return ", ".join([f"p={self.p:g}", f"q={self.q:g}", *shown])

    def __prepare_scriptable__(self) -> nn.Module:
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}: use torch.export or torch.compile, or for inference script "
            "what sparseout.restore(model) returns"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_cells()  # a copy has its own

    def _called_in(self, tracer: Any, input: Any) -> Any:
        """A call of this layer in the graph of `torch.fx`, so that `train()`, `eval()`, `p` and `q` go on acting."""
        path = tracer.path_of_module(self)
        if tracer.root is self:  # a graph cannot call the module that it replaces
            path = "layer"
            tracer.root = nn.ModuleDict({path: self}).train(self.training)
        return tracer.create_proxy("call_module", path, (input,), {})

    def _make_cells(self) -> None:
        # A graph would be compiled again for each value of a module's float, but reads a tensor. These are neither parameters nor
        # buffers, so that `.to()` leaves them on the CPU in float64.
        with torch.inference_mode(False):
            self._p_cell = torch.tensor(self._p, dtype=torch.float64, device="cpu")
            self._q_cell = torch.tensor(self._q, dtype=torch.float64, device="cpu")
            scale = 1.0 if self._scale == "rms" else self._scale
            self._scale_cell = torch.tensor(scale, dtype=torch.float64, device="cpu")

    def _current_settings(self, input: Tensor) -> tuple[Any, Any, Any]:
        """`p`, `q` and `s`: as tensors in a compiled graph, as floats elsewhere."""
        compiling = torch.compiler.is_compiling()
        p, q, scale = (self._p_cell, self._q_cell, self._scale_cell) if compiling else (self._p, self._q, self._scale)
        # Not by looking at the scale, whose every value a graph would then be compiled for.
        return p, q, self._running(input) if "running_rms" in self._buffers else scale

    def _running(self, input: Tensor) -> RunningRMS:
        # A layer had no tensors before, so that a model may be on a device to which no one moved its layers.
        if isinstance(input, Tensor) and self.running_rms.device != input.device:
            known = not self.running_rms.is_meta
            self.running_rms = self.running_rms.to(input.device) if known else torch.zeros((), device=input.device)
        return RunningRMS(local_of(self.running_rms))

    def _apply(self, fn: Any, recurse: bool = True) -> Sparseout:
        before = self._buffers.get("running_rms")
        super()._apply(fn, recurse)
        after = self._buffers.get("running_rms")
        if before is None or after is None or after.is_meta or not is_plain(after):
            return self
        # What does not keep the value, such as `to_empty`, leaves memory that nobody wrote.
        if before.is_meta or not torch.equal(after, before.to(after)):
            after.zero_()
        return self

    @property
    def _is_hf_initialized(self) -> bool:
        """What `from_pretrained` of `transformers` sets once a module has its weights.

        It marks the tensors that it loaded in the same way, and leaves a buffer that the checkpoint lacks uninitialised.
        """
        return bool(vars(self).get("_has_weights", False))

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, value: bool) -> None:
        self._has_weights = value
        running = self._buffers.get("running_rms")
        if value and running is not None and not (running.is_meta or getattr(running, "_is_hf_initialized", False)):
            self.reset_parameters()
