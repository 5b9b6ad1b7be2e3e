"""The product of sparse inputs and a transposed weight: by the compiled kernel, in plain torch, and without skipping."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparseout.native.library import AVAILABLE, LIBRARY
from sparseout.op.backends import PLAIN, is_plain

INPUTS = (torch.float32, torch.bfloat16, torch.float16)
WEIGHTS = (torch.float32, torch.bfloat16)

used = len(AVAILABLE) - 1  # index of the instruction set that calls use; tests also select slower ones


def product(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float = 0.0, max_batch: int | None = None) -> Tensor:
    """`y = sum of x_j W[:, j] + b over the j with |x_j| > cutoff`, summed in float32.

    Zeros are skipped for at most `max_batch` rows of `input`. More rows, and tensors that the kernel cannot read, get the dense
    product of the same numbers. A weight that is skipped is not read: `0 * inf` adds 0 here and NaN to a dense product.

    Args:
        input: `x`, of shape `(..., in)`, in float32, bfloat16 or float16.
        weight: `W`, of shape `(out, in)`, in float32 or bfloat16. If it does not lie in memory by columns, the product is dense.
        bias: `b`, of shape `(out,)`, or None.
        cutoff: magnitude up to which an input counts as zero. NaN never does.
        max_batch: largest number of rows for which zeros are skipped. Default: any number.

    Returns:
        `y`, of shape `(..., out)`, in the dtype of `input`.

    >>> x = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    >>> product(x, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).t(), None)
    tensor([[ 8., 10., 12.],
            [ 1.,  2.,  3.]])
    """
    skips = max_batch is None or input.numel() <= max_batch * weight.shape[1]
    if not (skips and _is_readable(input, weight, bias)):
        return dense(input, weight, bias, cutoff)
    if LIBRARY is not None:
        return _compiled(input, weight, bias, cutoff)
    if weight.dtype == torch.float32:
        return gathered(input, weight, bias, cutoff)
    return dense(input, weight, bias, cutoff)


def dense(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float = 0.0) -> Tensor:
    """`product` without skipping."""
    if cutoff:
        input = input.masked_fill(input.abs() <= cutoff, 0)
    dtypes = {each.dtype for each in (input, weight, bias) if each is not None}
    if len(dtypes) > 1 and input.dtype in INPUTS and weight.dtype in WEIGHTS:
        output = functional.linear(input.float(), weight.float(), None if bias is None else bias.float())
        return output.to(input.dtype)
    return functional.linear(input, weight, bias)


def gathered(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float = 0.0) -> Tensor:
    """`product` in plain torch for a float32 weight: gathers the weights of non-zero inputs."""
    rows = input.float().reshape(-1, weight.shape[1])
    active = ~(rows.abs() <= cutoff)
    indices, counts = active.nonzero()[:, 1], active.sum(1)
    offsets = counts.cumsum(0) - counts
    output = functional.embedding_bag(indices, weight.t(), offsets, mode="sum", per_sample_weights=rows[active])
    output = output if bias is None else output + bias
    return output.view(*input.shape[:-1], weight.shape[0]).to(input.dtype)


def by_columns(weight: Tensor) -> Tensor:
    """Return `weight` with its columns one after the other in memory, in huge pages if the system gives them.

    >>> by_columns(torch.ones(3, 2)).stride()
    (1, 3)
    """
    if weight.stride() == (1, weight.shape[0]) or not weight.is_cpu or type(weight) not in PLAIN:
        return weight.t().contiguous().t()
    memory = torch.empty_like(weight.t(), memory_format=torch.contiguous_format)
    if LIBRARY is not None:
        # Skipping jumps between rows of memory, most of which are on another page.
        LIBRARY.sparseout_advise(memory.data_ptr(), memory.numel() * memory.element_size())
    return memory.copy_(weight.t()).t()


def _compiled(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float) -> Tensor:
    columns, inputs = weight.shape
    dtype = input.dtype
    output = torch.empty((*input.shape[:-1], columns), dtype=torch.float32)
    if dtype != torch.float32:
        input = input.float()
    if bias is not None:
        bias = bias.float().contiguous()
    input = input.contiguous()
    assert LIBRARY is not None
    failed = LIBRARY.sparseout_skip_zeros(
        input.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        output.data_ptr(),
        input.numel() // inputs,
        inputs,
        columns,
        cutoff,
        weight.dtype == torch.bfloat16,
        torch.get_num_threads(),
        used,
    )
    if failed:
        raise MemoryError(f"there is no memory to list the non-zero entries of an input of shape {tuple(input.shape)}")
    return output if dtype == torch.float32 else output.to(dtype)


def _is_readable(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    columns, inputs = weight.shape
    return (
        input.is_cpu
        and input.dtype in INPUTS
        and input.dim() > 0
        and input.shape[-1] == inputs > 0
        and is_plain(input)
        and weight.dtype in WEIGHTS
        and weight.stride() == (1, columns)
        and _has_memory(weight)
        and (bias is None or _has_memory(bias))
    )


def _has_memory(parameter: Tensor) -> bool:
    # Cheaper than is_plain, which has found no transform for the input.
    return type(parameter) in PLAIN and parameter.is_cpu and not parameter.is_neg() and parameter.data_ptr() != 0
