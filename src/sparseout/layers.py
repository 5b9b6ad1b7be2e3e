"""Sparseout as a module, a drop-in replacement for `torch.nn.Dropout`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.overrides import handle_torch_function, has_torch_function_unary

from sparseout.checks import (
    GRADIENTS,
    RUNNING_SCALES,
    Gradient,
    LayerScale,
    check_choice,
    check_eps,
    check_layer_scale,
    check_p,
    check_q,
    check_running_scale,
)
from sparseout.dial import Dial
from sparseout.op.backends import is_plain
from sparseout.op.dtensor import local_of
from sparseout.op.functional import check_call, draw_seed, perturb, sparseout
from sparseout.op.matched_scale import MatchedScale
from sparseout.op.moments import NORMS
from sparseout.op.running_rms import RunningRMS, no_recent_calls
from sparseout.op.settings import with_numbers
from sparseout.torch_internals import is_exporting

_RUNNING = ("running_rms", "running_moments")  # the buffers of a running scale


class Sparseout(nn.Module):
    """`y = x + s sign(x) |x/s|^(q/2) n` in training, `y = x` in evaluation: `sparseout.sparseout` as a layer.

    `p`, `q` and `scale` can be set during training. Each assignment is checked, and a compiled model does not recompile unless
    `scale` changes to or from `"rms"` or `"matched"`. As with `nn.Dropout`, the settings are not in the `state_dict`.

    With `scale="rms"`, `q` has the same meaning in a layer of any magnitude: `s` is the running root mean square of the layer's
    input, `s_t^2 = 0.9 s_(t-1)^2 + 0.1 mean(x_(t-1)^2)` over the earlier training batches, and in the first batch the root mean
    square of that batch. The mean covers all elements of a batch with fewer than 8192 elements, and otherwise 2731 to 5461 evenly
    spread ones. A batch whose mean is 0, NaN or Inf leaves `s` unchanged. The gradient holds `s` constant. For a `DTensor`, `s`
    describes the full tensor and is the same on all ranks.

    With `scale="matched"`, `s = (E x^2 / E|x|^q)^(1/(2-q))`. The noise over a layer then has the variance of Dropout's,
    `p / (1 - p) E x^2`, for every `q`: `q` sets the shape of the noise alone, and `p` its strength alone. The layer keeps running
    means of `|x|^k` for twelve `k` up to 8, over the samples and by the rules of `scale="rms"`, and interpolates between them.
    So a new `q` takes effect at once. Above 8, `s` is that of `q = 8`.

    The buffer `running_rms` holds the root mean square, and with `"matched"`, `running_moments` holds `E|x/running_rms|^k`. The
    `state_dict` of the layer has no other key; 0, NaN, Inf and negative values mean that there is none yet. If a `state_dict`
    lacks them (`strict=False`, `from_pretrained`), and after `to_empty()`, the next batch sets them, as in a new layer. If it was
    saved with `"rms"`, a layer with `"matched"` warns that the next batch sets the moments. `DistributedDataParallel` broadcasts
    the buffers from rank 0 before each call, as it does for BatchNorm; in the first call each rank uses the `s` of its own batch.

    Only calls in training mode that record gradients update `s`. Calls under `no_grad`, such as Monte Carlo dropout, use the
    present `s`, and so do the transforms of `torch.func`.

    Activation checkpointing recomputes a call with the `s` of that call. The layer finds it by the call's seed among its last
    1024 checkpointed or compiled calls. It cannot find it if the seed is not restored (`preserve_rng_state=False`, or a
    `generator`), if more than 1024 such calls precede the backward pass, or if the layer moves to another device in between. The
    recomputed call then uses the present `s`. If two calls of one layer have equal seeds before the backward pass, both use the
    later `s`. If a compiled function contains the checkpoint, a second call before the backward pass of the first is an error of
    torch.

    `torch.fx.symbolic_trace` records a call of the layer, which continues to follow `train()`, `eval()`, `p` and `q`.
    `torch.jit.script` raises, and so does `torch.jit.trace` in training.

    Args:
        p: drop probability in [0, 1].
        q: norm, at least 0: 2 is Dropout, smaller values make activations sparser, larger values make them denser.
        inplace: write the result into the input.
        scale: `s`, the unit in which `|x|` is measured: a positive number, `"rms"` or `"matched"`.
        gradient: `"detached"` or `"exact"`; with a running scale only `"detached"`.
        eps: positive bound of the backward factor for `q < 2`. Default: 1e-6, and at least 1e-4 in float16.
        shared_dims: dimensions along which one draw is shared.
        generator: source of the seeds. Default: the default generator of the input's device.

    Shape:
        Input and output: any shape, the same.

    Raises:
        TypeError, ValueError: as `sparseout.sparseout`, when the layer is built; for the device of the generator and the range of
            `shared_dims`, when the layer is called.

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

    # The module that `sparseout.swap_dropout` replaced by this layer, in a tuple, so it is not a submodule.
    replaced: tuple[nn.Module, ...] = ()
    running_rms: Tensor
    running_moments: Tensor
    _recent_calls: tuple[Tensor, Tensor]  # the last two fields of `RunningRMS`

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        inplace: bool = False,
        *,
        scale: LayerScale = 1.0,
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
        self._scale: LayerScale = 1.0
        self._make_tensors()
        self.scale = scale

    @property
    def p(self) -> float:
        """Drop probability in [0, 1]."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = check_p(value)
        self._p_tensor.fill_(self._p)

    @property
    def q(self) -> float:
        """Norm, at least 0."""
        return self._q

    @q.setter
    def q(self, value: float) -> None:
        self._q = check_q(value)
        self._q_tensor.fill_(self._q)

    @property
    def scale(self) -> LayerScale:
        """The unit in which `|x|` is measured, `"rms"` or `"matched"`."""
        return self._scale

    @scale.setter
    def scale(self, value: LayerScale) -> None:
        value = check_layer_scale(value)
        check_running_scale(value, self.gradient)
        if not isinstance(value, str):
            self._buffers.pop("running_rms", None)
            self._scale_tensor.fill_(value)
        elif "running_rms" not in self._buffers:
            self.register_buffer("running_rms", torch.zeros((), dtype=torch.float32))
            self._forget_calls()
        if value != "matched":
            self._buffers.pop("running_moments", None)
        elif "running_moments" not in self._buffers:
            zeros = torch.zeros(len(NORMS), dtype=torch.float32, device=self.running_rms.device)
            self.register_buffer("running_moments", zeros)
        self._scale = value

    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return self._record_call(input.tracer, input)
        # Compiled graphs read the numbers from tensors, since each value of a float would cause a recompilation.
        compiling = torch.compiler.is_compiling()
        p: Any = self._p_tensor if compiling else self._p
        q: Any = self._q_tensor if compiling else self._q
        scale: Any = self._scale_tensor if compiling else self._scale
        shared_dims = self._shared_dims_of(input)
        if "running_rms" in self._buffers:
            return self._forward_with_running_scale(input, p, q, shared_dims)
        return sparseout(
            input,
            p,
            q,
            self.training,
            self.inplace,
            scale=scale,
            gradient=self.gradient,
            eps=self.eps,
            shared_dims=shared_dims,
            generator=self.generator,
        )

    def _forward_with_running_scale(self, input: Tensor, p: Any, q: Any, shared_dims: int | Sequence[int]) -> Tensor:
        if has_torch_function_unary(input):
            result: Tensor = handle_torch_function(self.forward, (input,), input)
            return result
        check_running_scale(self._scale, self.gradient)
        settings, kernel = check_call(input, p, q, 1.0, self.gradient, self.eps, shared_dims, self.generator)
        if not self.training:
            return input
        seed = draw_seed(input, self.generator, kernel)
        scale = self._running_scale(input, seed, settings.q)
        return perturb(input, seed, with_numbers(settings, settings.p, settings.q, scale), self.inplace, kernel)

    def _shared_dims_of(self, input: Tensor) -> int | Sequence[int]:
        """Return the dimensions of `input` along which one draw is shared."""
        return self.shared_dims

    def reset_parameters(self) -> None:
        """Reset the running scale, if there is one: the next batch sets it."""
        if "running_rms" in self._buffers:
            self._forget_scale()

    def settings(self) -> dict[str, Any]:
        """Return the arguments that build an equal layer."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if hasattr(self, name)}

    def extra_repr(self) -> str:
        defaults = {name: parameter.default for name, parameter in inspect.signature(type(self)).parameters.items()}
        others = {name: value for name, value in self.settings().items() if name not in ("p", "q")}
        shown = [f"{name}={value!r}" for name, value in others.items() if value != defaults[name]]
        return ", ".join([f"p={self.p:g}", f"q={self.q:g}", *shown])

    def __prepare_scriptable__(self) -> nn.Module:
        raise TypeError(
            f"torch.jit.script cannot compile {type(self).__name__}: use torch.export or torch.compile, or for inference script "
            "the result of sparseout.restore(model)"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_recent_calls"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_tensors()  # a copy must not share them

    def _record_call(self, tracer: Any, input: Any) -> Any:
        """Record a call of this layer in a graph of `torch.fx`, where `train()`, `eval()`, `p` and `q` still take effect."""
        path = tracer.path_of_module(self)
        if tracer.root is self:  # a graph cannot call the module that it replaces
            path = "layer"
            tracer.root = nn.ModuleDict({path: self}).train(self.training)
        return tracer.create_proxy("call_module", path, (input,), {})

    def _make_tensors(self) -> None:
        # Neither parameters nor buffers: `.to()` must leave them on the CPU in float64.
        with torch.inference_mode(False):
            self._p_tensor = torch.tensor(self._p, dtype=torch.float64, device="cpu")
            self._q_tensor = torch.tensor(self._q, dtype=torch.float64, device="cpu")
            scale = 1.0 if self._scale in RUNNING_SCALES else self._scale
            self._scale_tensor = torch.tensor(scale, dtype=torch.float64, device="cpu")
        if self._scale in RUNNING_SCALES:
            self._forget_calls()

    def _forget_calls(self) -> None:
        with torch.inference_mode(False):
            self._recent_calls = no_recent_calls(self.running_rms.device)

    def _running_scale(self, input: Tensor, seed: Tensor | int, q: Any) -> float | Tensor:
        """Return the scale of a training call, and update the running scale."""
        value = self._moved("running_rms", input.device)
        if self._recent_calls[0].device != input.device:
            self._forget_calls()
        # An exported program may write to buffers only, and no checkpoint recomputes its calls.
        calls = no_recent_calls(input.device) if is_exporting() else self._recent_calls
        if "running_moments" not in self._buffers:
            return RunningRMS(value, *calls).scale(input, seed)
        return MatchedScale(value, self._moved("running_moments", input.device), *calls).scale(input, seed, q)

    def _moved(self, name: str, device: torch.device) -> Tensor:
        """Return a buffer of the running scale on `device`, where the layer keeps it from now on."""
        buffer = self._buffers[name]
        assert buffer is not None
        # An inserted layer may be on another device than the model: the module that it replaced had no tensors to move.
        if buffer.device != device:
            buffer = torch.zeros(buffer.shape, device=device) if buffer.is_meta else buffer.to(device)
            setattr(self, name, buffer)
        return local_of(buffer)

    def _forget_scale(self) -> None:
        for name in _RUNNING:
            buffer = self._buffers.get(name)
            if buffer is not None:
                buffer.zero_()

    def _apply(self, fn: Any, recurse: bool = True) -> Sparseout:
        buffers = {name: self._buffers[name] for name in _RUNNING if name in self._buffers}
        super()._apply(fn, recurse)
        for name, before in buffers.items():
            after = self._buffers[name]
            assert before is not None
            assert after is not None
            if after.device != before.device:
                self._forget_calls()
            # A conversion that does not keep the values, such as `to_empty`, leaves uninitialised memory.
            if not after.is_meta and is_plain(after) and (before.is_meta or not torch.equal(after, before.to(after))):
                after.zero_()
        return self

    def _load_from_state_dict(self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, *rest: Any) -> None:
        """Load the buffers. A `state_dict` saved with `scale="rms"` has no moments: the next batch sets them."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, *rest)
        key = f"{prefix}running_moments"
        if key in missing and f"{prefix}running_rms" in state_dict:
            missing.remove(key)
            if not self.running_moments.is_meta:
                self.running_moments.zero_()
            warnings.warn(
                f"{key} is not in the state_dict, which was saved with scale='rms': the next batch sets it", stacklevel=2
            )

    @property
    def _is_hf_initialized(self) -> bool:
        """The mark that `from_pretrained` of `transformers` sets on a module with loaded weights.

        It marks each loaded tensor in the same way, and leaves a buffer that the checkpoint lacks uninitialised.
        """
        return bool(vars(self).get("_has_weights", False))

    @_is_hf_initialized.setter
    def _is_hf_initialized(self, value: bool) -> None:
        self._has_weights = value
        if not value:
            return
        for name in _RUNNING:
            buffer = self._buffers.get(name)
            if buffer is not None and not (buffer.is_meta or getattr(buffer, "_is_hf_initialized", False)):
                buffer.zero_()
