"""`nn.Linear` with a weight in transposed memory order, which reads only the weights of non-zero inputs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sparseout.inference import kernel
from sparseout.inference.custom_op import product


class SkipZerosLinear(nn.Linear):
    """`y = sum of x_j W[:, j] + b over the j with |x_j| > cutoff`: `nn.Linear` in evaluation mode, without its products by zero.

    It is an `nn.Linear` in every other respect. `weight` has the shape `(out, in)` and lies in memory column by column, so it is
    held once. The `state_dict` has the keys, shapes and dtypes of `nn.Linear`, and so loads into one and from one. Training mode
    computes the dense product, and gradients are those of `nn.Linear`.

    A column of the weight whose input is zero is not read: an infinite weight there adds 0, and gives NaN in a dense product.
    NaN and Inf in the input reach the output as they do in `nn.Linear`.

    Args:
        in_features, out_features, bias, device, dtype: see `nn.Linear`.

    Attributes:
        cutoff: magnitude up to which an input counts as zero. Default: 0.
        max_batch: largest number of rows for which zeros are skipped; more get the dense product. Default: None, any number.
        dense_dtype: dtype of the weights in the `state_dict` and after `restore`, if it is not the one in memory.

    >>> layer = SkipZerosLinear(4, 3).eval()
    >>> x = torch.tensor([[0.0, 1.0, 0.0, -2.0]])
    >>> torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    True
    """

    cutoff: float = 0.0
    max_batch: int | None = None
    dense_dtype: torch.dtype | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._transpose()

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            return kernel.dense(input, self.weight, self.bias, self.cutoff)
        return product(input, self.weight, self.bias, self.cutoff, self.max_batch)

    def extra_repr(self) -> str:
        parts = [super().extra_repr(), f"max_batch={self.max_batch}"]
        parts += [f"cutoff={self.cutoff:g}"] if self.cutoff else []
        return ", ".join([*parts, f"weights={str(self.weight.dtype).removeprefix('torch.')}"])

    def _transpose(self) -> None:
        # The parameter stays the same object, so other references to it stay valid.
        self.weight.data = kernel.by_columns(self.weight.data)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars:  # file formats such as safetensors take contiguous tensors only
            key = f"{prefix}weight"
            destination[key] = destination[key].to(self.dense_dtype or self.weight.dtype).contiguous()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._transpose()  # assign=True brings another memory order


def convert(linear: nn.Linear, *, dtype: torch.dtype, cutoff: float = 0.0, max_batch: int | None = None) -> SkipZerosLinear:
    """Make `linear` a `SkipZerosLinear` in place, with its weight in `dtype`: the same module, hooks and parameters."""
    held = linear.weight.dtype
    linear.weight.data = linear.weight.data.to(dtype)
    linear.__class__ = SkipZerosLinear
    assert isinstance(linear, SkipZerosLinear)
    linear.cutoff, linear.max_batch, linear.dense_dtype = cutoff, max_batch, None if held == dtype else held
    linear._transpose()
    return linear


def restore(model: nn.Module) -> nn.Module:
    """Make every `SkipZerosLinear` of `model` an `nn.Linear` again, in place, and return `model`.

    The modules and parameters stay the same objects. Weights that were rounded to bfloat16 stay rounded.

    Warns:
        UserWarning: `model` has no `SkipZerosLinear`.

    Raises:
        TypeError: `model` is not a module.

    >>> restore(nn.Sequential(nn.ReLU(), SkipZerosLinear(4, 3)))[1]
    Linear(in_features=4, out_features=3, bias=True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = [module for module in model.modules() if isinstance(module, SkipZerosLinear)]
    if not layers:
        warnings.warn("restore changed nothing: model has no SkipZerosLinear", stacklevel=2)
    for layer in layers:
        layer.weight.data = layer.weight.data.to(layer.dense_dtype or layer.weight.dtype).contiguous()
        for name in ("cutoff", "max_batch", "dense_dtype"):
            vars(layer).pop(name, None)
        kind: Any = nn.Linear
        layer.__class__ = kind
    return model
