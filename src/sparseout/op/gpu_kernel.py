"""The GPU kernel in Triton: forward and backward take one pass each and recompute the mask. `gpu.py` launches it."""

import triton
import triton.language as tl


@triton.jit
def philox(seed, counter):
    """The four words of each counter. Triton has a different generator for 64-bit arguments, so the arguments have 32 bits."""
    low = counter.to(tl.uint32)
    high = (counter >> 32).to(tl.uint32) if counter.dtype == tl.int64 else low * 0
    return tl.philox(seed, low, high, low * 0, low * 0, 7)


@triton.jit
def kept_in_block(seed, block, threshold, block_size: tl.constexpr):
    """The mask of elements `block * block_size` to `(block + 1) * block_size - 1`. One counter serves four elements."""
    word0, word1, word2, word3 = philox(seed, block * (block_size // 4) + tl.arange(0, block_size // 4))
    bits = (word0 >= threshold).to(tl.int32) + (word1 >= threshold).to(tl.int32) * 2
    bits += (word2 >= threshold).to(tl.int32) * 4 + (word3 >= threshold).to(tl.int32) * 8
    words = tl.arange(0, 4).reshape(1, 4, 1)
    return ((bits.reshape(block_size // 32, 1, 8) >> words) & 1).reshape(block_size) != 0


@triton.jit
def kept_at(seed, index, threshold):
    """The mask of any elements. One counter serves one element."""
    word0, word1, word2, word3 = philox(seed, (index >> 5 << 3) + (index & 7))
    odd, upper = (index & 8) != 0, (index & 16) != 0
    return tl.where(upper, tl.where(odd, word3, word2), tl.where(odd, word1, word0)) >= threshold


@triton.jit
def offset_of(position, sizes, strides):
    """The offset of element `position`: its coordinates in `sizes`, fastest first, times `strides`, or `position`."""
    offset = position
    if len(strides) > 0:
        unsigned: tl.constexpr = tl.uint64 if position.dtype == tl.int64 else tl.uint32  # faster to divide
        rest = position.to(unsigned)
        offset *= 0
        for dim in tl.static_range(len(sizes) - 1):
            size = sizes[dim].to(unsigned)
            offset += (rest % size).to(position.dtype) * strides[dim]
            rest = rest // size
        offset += rest.to(position.dtype) * strides[len(sizes) - 1]
    return offset


@triton.jit
def number(bits, dtype: tl.constexpr):
    """The float64 with these bits, as `dtype`. A float that is passed to Triton arrives rounded to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def power_of_2(n, dtype: tl.constexpr):
    """`2^n` for an integer `n` in the exponent range of normal numbers."""
    if dtype == tl.float64:
        result = ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    else:
        result = ((n + 127) << 23).to(tl.float32, bitcast=True)
    return result


@triton.jit
def any_power(x, exponent):
    """`x^a = 2^(a log2 x)` for `x >= 0`, where `log2 x = e + log2 m` with an integer `e` and `m` in `[sqrt(1/2), sqrt(2))`.

    `a` is split into a high and a low part. The high part times `e` is exact, so `a log2 x` loses no digit, however large it is.
    """
    a = number(exponent, x.dtype)
    leading = exponent.to(tl.int64) >> 38 << 38  # 15 significant bits
    high = number(leading, x.dtype)
    low = (number(exponent, tl.float64) - number(leading, tl.float64)).to(x.dtype)
    if x.dtype == tl.float64:
        subnormal = x < 2.2250738585072014e-308
        bits = tl.where(subnormal, x * 18014398509481984.0, x).to(tl.int64, bitcast=True)
        e = (bits - 0x3FE6A09E667F3BCD) >> 52
        log2_m = tl.log2((bits - (e << 52)).to(tl.float64, bitcast=True))
        e = tl.where(subnormal, e - 54, e)
        limit: tl.constexpr = 2044.0
    else:
        subnormal = x < 1.1754943508222875e-38
        bits = tl.where(subnormal, x * 16777216.0, x).to(tl.int32, bitcast=True)
        e = (bits - 0x3F3504F3) >> 23
        m = (bits - (e << 23)).to(tl.float32, bitcast=True)
        z = (m - 1) / (m + 1)
        z2 = z * z  # log2 m = 2 / ln 2 (z + z^3 / 3 + z^5 / 5 + ...): the error of `tl.log2` is 2^-22
        log2_m = z * (2.88539008 + z2 * (0.961796694 + z2 * (0.577078016 + z2 * (0.412198583 + z2 * 0.320598898))))
        e = tl.where(subnormal, e - 24, e)
        limit: tl.constexpr = 252.0
    whole = high * e
    part = a * log2_m + low * e
    rounded = tl.minimum(tl.maximum(tl.floor(whole + part + 0.5), -limit), limit)
    n = rounded.to(tl.int32)
    half = n >> 1  # in two steps, since the result may leave the range
    result = tl.exp2(whole - rounded + part) * power_of_2(half, x.dtype) * power_of_2(n - half, x.dtype)
    result = tl.where(x == 0, tl.where(exponent > 0, 0.0, float("inf")), result)  # an integer with the sign of `a`
    result = tl.where(x == float("inf"), tl.where(exponent > 0, float("inf"), 0.0), result)
    return tl.where(x == x, result, x)


@triton.jit
def root(x):
    """The square root. Subnormal numbers are scaled, because `tl.sqrt` treats them as 0."""
    subnormal = x < 1.1754943508222875e-38
    return tl.sqrt(tl.where(subnormal, x * 18446744073709551616.0, x)) * tl.where(subnormal, 2.3283064365386963e-10, 1.0)


@triton.jit
def power(x, exponent, quarters: tl.constexpr):
    """`x^a` for `x >= 0`: by square roots and products if `quarters` is `4 a`, and by `any_power` if it is None."""
    if quarters is None:
        result = any_power(x, exponent)
    else:
        size: tl.constexpr = quarters if quarters >= 0 else -quarters
        result = tl.full(x.shape, 1, x.dtype)
        if size & 2:
            result = root(x)
        if size & 1:
            result *= tl.sqrt(root(x))
        for _ in tl.static_range(size // 4):
            result *= x
        if quarters < 0:
            result = 1 / result
    return result


@triton.jit
def normal(x):
    """The normal number nearest to `x >= 0`."""
    if x.dtype == tl.float64:
        result = tl.minimum(tl.maximum(x, 2.2250738585072014e-308), 1.7976931348623157e308)
    else:
        result = tl.minimum(tl.maximum(x, 1.1754943508222875e-38), 3.4028234663852886e38)
    return result


@triton.jit
def absorb(c, eps, scale, exponent):
    """`scale.absorb` for a scale on the device. `exponent` holds the bits of `1 - q/2`."""
    s = normal(scale.to(c.dtype))
    return tl.where(c > 0, normal(c * normal(any_power(s, exponent))), 0.0), normal(eps * s)


@triton.jit(do_not_specialize=["threshold", "up", "exponent", "eps", "coefficient"])
def kernel(
    input_pointer,  # None if the result is the gradient times the mask
    grad_pointer,  # None in the forward pass
    output_pointer,
    seed_pointer,
    scale_pointer,  # None if `coefficient` and `eps` include the scale
    sizes,
    input_strides,
    grad_strides,
    mask_strides,
    count,
    threshold: tl.int64,
    up: tl.int64,
    exponent: tl.int64,
    eps: tl.int64,
    coefficient: tl.int64,
    quarters: tl.constexpr,
    wide: tl.constexpr,
    block_size: tl.constexpr,
):
    """Compute one block of the output, which is dense. Numbers arrive as the bits of a float64."""
    dtype: tl.constexpr = tl.float64 if output_pointer.dtype.element_ty == tl.float64 else tl.float32
    block = tl.program_id(0)
    if wide:
        block = block.to(tl.int64)
    position = block * block_size + tl.arange(0, block_size)
    inside = position < count
    seed, least = tl.load(seed_pointer), threshold.to(tl.uint64)
    if len(mask_strides) == 0:
        kept = kept_in_block(seed, block, least, block_size)
    else:
        kept = kept_at(seed, offset_of(position, sizes, mask_strides), least)
    if input_pointer is not None:
        x = tl.load(input_pointer + offset_of(position, sizes, input_strides), inside).to(dtype)
    if grad_pointer is not None:
        grad = tl.load(grad_pointer + offset_of(position, sizes, grad_strides), inside).to(dtype)

    c, shift = number(coefficient, dtype), number(eps, dtype)
    if scale_pointer is not None:
        one: tl.constexpr = 1.0 if grad_pointer is None else 0.0
        rest = (one - number(exponent, tl.float64)).to(tl.int64, bitcast=True)
        c, shift = absorb(c, shift, tl.load(scale_pointer), rest)
    if input_pointer is None:
        output = grad * tl.where(kept, number(up, dtype), 0.0)
    elif grad_pointer is None:
        size = power(tl.abs(x), exponent, quarters)
        noise = tl.where(kept, normal(number(up, dtype) * c), -c)
        output = x + tl.where(x > 0, size, tl.where(x < 0, -size, 0.0)) * noise
    else:
        noise = tl.where(kept, number(up, dtype), -1.0)
        scaled = c * power(tl.abs(x) + shift, exponent, quarters)
        largest: tl.constexpr = 1.7976931348623157e308 if dtype == tl.float64 else 3.4028234663852886e38
        factor = tl.maximum(1 + scaled * noise, -largest, propagate_nan=tl.PropagateNan.ALL)
        output = grad * tl.minimum(factor, largest, propagate_nan=tl.PropagateNan.ALL)
    tl.store(output_pointer + position, output, inside)
