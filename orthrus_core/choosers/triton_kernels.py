"""The Triton kernel that draws tokens. Needs triton; imported by `triton_draw` alone.

The numbers are those of `filters` and `noise` to the bit: launch with `enable_fp_fusion=False`.
"""

import triton
import triton.language as tl

LOWEST_KEY = tl.constexpr(-2139095040)  # of the lowest finite float32, see `_keys_of`
WEIGHTLESS = tl.constexpr(-30.0)  # a token so far below the likeliest one has weight 0
ONE = tl.constexpr(4398046511104.0)  # 2^42: the weight of the likeliest token
STEP = tl.constexpr(0x9E3779B97F4A7C15)
MULTIPLIERS = tl.constexpr((0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
WAYS = tl.constexpr(8)  # thresholds that one pass over a row tries


@triton.jit
def _mix(bits):
    bits = (bits ^ (bits >> 30)) * MULTIPLIERS[0]
    bits = (bits ^ (bits >> 27)) * MULTIPLIERS[1]
    return bits ^ (bits >> 31)


@triton.jit
def _ln(x):
    bits = x.to(tl.int64, bitcast=True)
    exponent = ((bits >> 52) & 0x7FF) - 1022
    mantissa = ((bits & 0xFFFFFFFFFFFFF) | 0x3FE0000000000000).to(tl.float64, bitcast=True)
    low = mantissa < 0.70710678118654757
    mantissa = tl.where(low, mantissa * 2.0, mantissa)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = s * 0.0 + 1.0 / 17
    for term in tl.static_range(8):
        series = series * square + 1.0 / (15 - 2 * term)
    return series * s * 2.0 + (exponent - low.to(tl.int64)).to(tl.float64) * 0.69314718055994529


@triton.jit
def _gumbel(bits):
    uniform = ((bits >> 12).to(tl.float64) + 0.5) * (1.0 / 4503599627370496)
    return -(_ln(-_ln(uniform)).to(tl.float32))


@triton.jit
def _gumbel_bound(bits):
    """At least `_gumbel(bits)`, at most 0.07 more where that is large; see draw.cpp."""
    rest = ((bits ^ 0xFFFFFFFFFFFFFFFF) >> 40).to(tl.int32).to(tl.float32)
    read = rest.to(tl.int32, bitcast=True).to(tl.float32)
    return (151.001 - read * (1.0 / 8388608)) * 0.693148


@triton.jit
def _exp_of(x):
    clamped = tl.maximum(x, -87.0)
    n = (clamped * 1.44269504 + 12582912.0) - 12582912.0
    r = (clamped - n * 0.693359375) - n * -2.12194440e-4
    e = r * (1.0 / 5040) + 1.0 / 720
    e = e * r + 1.0 / 120
    e = e * r + 1.0 / 24
    e = e * r + 1.0 / 6
    e = e * r + 0.5
    e = e * r + 1.0
    e = e * r + 1.0
    e = e * ((n.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < -87.0, 0.0, e)


@triton.jit
def _keys_of(scores):
    """Whole numbers in the order of the scores, equal where those are."""
    bits = (scores + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _scores_of(logits, token, mask, num_masked, temperature, V, HAS_MASKS: tl.constexpr):
    inside = token < V
    logit = tl.load(logits + token, mask=inside, other=float("-inf")).to(tl.float32)
    score = tl.div_rn(logit, tl.zeros_like(logit) + temperature)
    if HAS_MASKS:
        word = tl.load(mask + token // 32, mask=token < num_masked, other=-1)
        score = tl.where(((word >> (token % 32)) & 1) != 0, score, float("-inf"))
    return score


@triton.jit
def _search(
    logits, mask, num_masked, temperature, V, top, least, limit,
    low, high, HAS_MASKS: tl.constexpr, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the largest key in [low, high) with at most `limit` of mass from key `least` to below it.

    A token's mass is its weight or, not WEIGHTED, 1. Sums are of whole numbers: their order shows nowhere.
    """
    way = tl.arange(0, WAYS).to(tl.int64)
    while high - low > 1:
        tried = low + (high - low) * way // WAYS
        below = tl.zeros([WAYS], tl.int64)
        for first in range(0, V, BLOCK):
            token = first + tl.arange(0, BLOCK)
            score = _scores_of(logits, token, mask, num_masked, temperature, V, HAS_MASKS)
            key = _keys_of(score)
            mass = tl.where((token < V) & (key >= least), 1, 0).to(tl.int64)
            if WEIGHTED:
                mass = mass * (_exp_of(score - top) * ONE).to(tl.int64)
            below += tl.sum(tl.where(key[:, None] < tried[None, :], mass[:, None], 0), 0)
        low = tl.max(tl.where(below <= limit, tried, low), 0)
        high = tl.min(tl.where(below <= limit, high, tried), 0)
    return low


@triton.jit
def _top_of(logits, mask, num_masked, temperature, V, HAS_MASKS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the largest score, and whether it is finite and no score is NaN."""
    top, num_nan = float("-inf"), 0
    for first in range(0, V, BLOCK):
        score = _scores_of(logits, first + tl.arange(0, BLOCK), mask, num_masked, temperature, V, HAS_MASKS)
        num_nan += tl.sum((score != score).to(tl.int32))
        top = tl.maximum(top, tl.max(tl.where(score == score, score, float("-inf")), 0))
    return top, (num_nan == 0) & (top - top == 0.0)


@triton.jit
def _in_top_p(
    logits, mask, num_masked, temperature, V, top, least, highest, top_p,
    HAS_MASKS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Return the key of the least likely token that top-p keeps, and how many tokens of that key it excludes.

    Those are the ones of the lowest ids.
    """
    total = tl.zeros([], tl.int64)
    for first in range(0, V, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = _scores_of(logits, token, mask, num_masked, temperature, V, HAS_MASKS)
        weight = (_exp_of(score - top) * ONE).to(tl.int64)
        total += tl.sum(tl.where(_keys_of(score) >= least, weight, 0), 0)
    cut = ((1.0 - top_p).to(tl.float32).to(tl.float64) * total.to(tl.float64)).to(tl.int64)
    # what is lighter than cut / V goes in any case; a margin for the rounding of all of this
    light = tl.log(tl.maximum(cut.to(tl.float32), 1e-30) / V / ONE)
    light = tl.maximum(light, WEIGHTLESS) - 1e-2 - tl.abs(top) * 1e-6
    low = tl.maximum(tl.max(_keys_of(tl.zeros([2], tl.float32) + (top + light)), 0), least)
    cut_key = _search(
        logits, mask, num_masked, temperature, V, top, least, cut,
        low, highest, HAS_MASKS, True, BLOCK,
    )  # fmt: skip
    below = tl.zeros([], tl.int64)
    own, count = tl.zeros([], tl.int64), tl.zeros([], tl.int64)
    for first in range(0, V, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = _scores_of(logits, token, mask, num_masked, temperature, V, HAS_MASKS)
        key = _keys_of(score)
        weight = (_exp_of(score - top) * ONE).to(tl.int64)
        below += tl.sum(tl.where((key >= least) & (key < cut_key), weight, 0), 0)
        own = tl.maximum(own, tl.max(tl.where(key == cut_key, weight, 0), 0))
        count += tl.sum((key == cut_key).to(tl.int64), 0)
    return cut_key, tl.minimum((cut - below) // tl.maximum(own, 1), count - 1)


@triton.jit(do_not_specialize=["row_stride", "num_rows", "num_words"])
def draw_rows(
    logits, row_stride, positions, packed, num_rows, mask_bits, mask_lines, num_words, ids, filtered,
    V: tl.constexpr, HAS_MASKS: tl.constexpr, KEEP_SCORES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program r draws the token of the r-th row that samples; see `Draw` and `RowSampling`."""
    place = tl.program_id(0)
    row = tl.load(packed + place)
    top_k = tl.load(packed + 3 * num_rows + place)
    temperature = tl.load(packed + 4 * num_rows + place).to(tl.float64, bitcast=True).to(tl.float32)
    top_p = tl.load(packed + 5 * num_rows + place).to(tl.float64, bitcast=True)
    min_p = tl.load(packed + 6 * num_rows + place).to(tl.float64, bitcast=True).to(tl.float32)
    logits += row * row_stride
    mask, num_masked = mask_bits, 0
    if HAS_MASKS:
        line = tl.load(mask_lines + row)
        num_masked = tl.where(line >= 0, V, 0)
        mask += tl.maximum(line, 0) * num_words

    top, is_sound = _top_of(logits, mask, num_masked, temperature, V, HAS_MASKS, BLOCK)
    least = tl.full([], LOWEST_KEY, tl.int64)
    num_tied = tl.zeros([], tl.int64)  # of the tokens whose key is `least`, those that are excluded
    highest = tl.max(_keys_of(tl.zeros([2], tl.float32) + top), 0) + 1
    if is_sound & (top_k > 0) & (top_k < V):
        least = _search(
            logits, mask, num_masked, temperature, V, top, tl.full([], -(2**40), tl.int64), V - top_k,
            least, highest, HAS_MASKS, False, BLOCK,
        )  # fmt: skip
    if is_sound & (top_p < 1.0):
        least, num_tied = _in_top_p(
            logits, mask, num_masked, temperature, V, top, least, highest, top_p, HAS_MASKS, BLOCK
        )

    noise_key = _mix(tl.load(packed + num_rows + place).to(tl.uint64, bitcast=True) + STEP)
    noise_key = _mix((noise_key ^ tl.load(packed + 2 * num_rows + place).to(tl.uint64, bitcast=True)) + STEP)
    noise_key = _mix((noise_key ^ (tl.load(positions + row) + 1).to(tl.uint64, bitcast=True)) + STEP)
    best, best_id = float("-inf"), tl.zeros([], tl.int64)
    seen = tl.zeros([], tl.int64)
    for first in range(0, V, BLOCK):
        token = first + tl.arange(0, BLOCK)
        score = _scores_of(logits, token, mask, num_masked, temperature, V, HAS_MASKS)
        key = _keys_of(score)
        kept = key > least
        tie = (key == least).to(tl.int64)
        kept = kept | ((tie > 0) & (seen + tl.cumsum(tie, 0) > num_tied))
        kept = kept & (_exp_of(score - top) >= min_p) & is_sound
        seen += tl.sum(tie, 0)
        if KEEP_SCORES:
            value = tl.where(kept | (is_sound == 0), score, float("-inf"))
            tl.store(filtered + place.to(tl.int64) * V + token, value, mask=token < V)
        bits = _mix(noise_key + (token.to(tl.uint64) + 1) * STEP)
        may_win = kept & (score + _gumbel_bound(bits) >= best)
        if tl.max(may_win.to(tl.int32), 0) > 0:
            value = tl.where(may_win, score + _gumbel(bits), float("-inf"))
            most = tl.max(value, 0)
            if most > best:  # of equal ones the lowest id, and blocks come by ascending id
                best = most
                best_id = tl.min(tl.where(value == most, token, V), 0).to(tl.int64)
    tl.store(ids + place, best_id)
