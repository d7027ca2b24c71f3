"""Noise without a generator: a pure function of seed, sample, position, token and what it is for."""

import math
from enum import IntEnum

import torch
from torch import Tensor

STREAM_STEP = -0x61C8864680B583EB  # 2^64 / golden ratio, odd: the step of a splitmix64 stream
MULTIPLIERS = (-0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)  # of splitmix64's finalizer, as signed numbers
CHUNK_ENTRIES = {"cpu": 2**16}  # computed at once: 7 times as fast as 64 rows of 150,000 tokens
LARGEST_CHUNK = 2**24  # elsewhere; 128 MiB per intermediate
LN_TERMS = 9  # of the series below: relative error under 1e-15 in float64


class Stream(IntEnum):
    """Independent noise at one position: what was judged with one must not be drawn again with it."""

    CHOICE = 0  # draws drafts and choices
    ACCEPTANCE = 1  # decides whether a draft stands, consensus "rejection" only
    RESIDUAL = 2  # draws the token in place of a rejected draft


def gumbel_noise(
    seeds: Tensor,
    samples: Tensor,
    positions: Tensor,
    vocab_size: int,
    stream: Stream = Stream.CHOICE,
) -> Tensor:
    """Return standard Gumbel noise for every token that may come next in R rows.

    Nothing but the five numbers of an entry decides it: not the shape, the order or an earlier call. Every
    operation is exact or correctly rounded (integers, + - * /), the logarithm included, so vector
    width and device do not show in the bits either. To be run eagerly: a compiler may fuse * and +.

    Args:
        seeds: (R,) int64.
        samples: (R,) int64, number of the completion for its prompt.
        positions: (R,) int64, position of the token to choose.
        vocab_size: V.
        stream: which of the noises at that position.
    Returns:
        (R, V) float32, finite.
    """
    keys = _keys(seeds, samples, positions, stream)
    steps = torch.arange(1, vocab_size + 1, device=seeds.device) * STREAM_STEP
    chunk_rows = max(1, CHUNK_ENTRIES.get(seeds.device.type, LARGEST_CHUNK) // vocab_size)
    chunks = [_gumbel(_mix(chunk[:, None] + steps)) for chunk in keys.split(chunk_rows)]
    return torch.cat(chunks)


def uniform_noise(seeds: Tensor, samples: Tensor, positions: Tensor, stream: Stream) -> Tensor:
    """Return one uniform number per entry, decided by nothing but its own four numbers.

    Args:
        seeds, samples, positions: int64 of one shape.
        stream: which of the noises at that position.
    Returns:
        float64 of the same shape, in (0, 1).
    """
    return _uniform(_mix(_keys(seeds, samples, positions, stream) + STREAM_STEP))


def _keys(seeds: Tensor, samples: Tensor, positions: Tensor, stream: Stream) -> Tensor:
    keys = torch.zeros_like(seeds)
    for part in (seeds, samples, positions):
        keys = _mix((keys ^ part) + STREAM_STEP)
    return keys if stream == Stream.CHOICE else _mix((keys ^ int(stream)) + STREAM_STEP)


def _gumbel(bits: Tensor) -> Tensor:
    return -_ln(-_ln(_uniform(bits))).float()


def _mix(bits: Tensor) -> Tensor:
    """Return splitmix64's finalizer of int64 bits: each bit of the input reaches all of the output."""
    bits = (bits ^ _shift_right(bits, 30)) * MULTIPLIERS[0]
    bits = (bits ^ _shift_right(bits, 27)) * MULTIPLIERS[1]
    return bits ^ _shift_right(bits, 31)


def _shift_right(bits: Tensor, count: int) -> Tensor:
    """Shift int64 bits and fill with zeros, where torch would repeat the sign."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _uniform(bits: Tensor) -> Tensor:
    """Return the top 52 bits as float64 in the middle of 2^52 cells: never 0, never 1."""
    return (_shift_right(bits, 12).double() + 0.5) * 2.0**-52


def _ln(x: Tensor) -> Tensor:
    """Return the natural logarithm of positive float64 from basic arithmetic alone.

    x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with
    s = (m-1) / (m+1), |s| < 0.172.
    """
    mantissa, exponent = torch.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, mantissa * 2, mantissa)
    s = (mantissa - 1) / (mantissa + 1)
    square = s * s
    series = torch.full_like(s, 1 / (2 * LN_TERMS - 1))
    for term in range(LN_TERMS - 2, -1, -1):
        series = series * square + 1 / (2 * term + 1)
    return series * s * 2 + (exponent - low.int()).double() * math.log(2)
