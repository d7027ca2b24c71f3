"""The noise: Gumbel, independent in every argument, and nothing but a function of them."""

import math

import pytest
import torch

from orthrus_core.choosers.noise import Stream, gumbel_noise, uniform_noise

V = 2000


def rows(seeds, samples, positions, vocab_size=V):
    seeds, samples, positions = torch.broadcast_tensors(*map(torch.as_tensor, (seeds, samples, positions)))
    return gumbel_noise(seeds.flatten(), samples.flatten(), positions.flatten(), vocab_size)


def uniform(noise):
    """The uniform number behind each Gumbel one: exp(-exp(-g))."""
    return (-(-noise.double()).exp()).exp()


def by_hand(seed: int, sample: int, position: int, token: int, stream: int = 0) -> float:
    """Splitmix64 in Python's whole numbers: the uniform number of a token."""
    full, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(bits: int) -> int:
        bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & full
        bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & full
        return bits ^ (bits >> 31)

    key = 0
    for part in (seed, sample, position, *([stream] if stream else [])):
        key = mix(((key ^ part) + golden) & full)
    bits = mix((key + (token + 1) * golden) & full)
    return ((bits >> 12) + 0.5) / 2**52


def gumbel_by_hand(*key: int) -> float:
    """With the logarithm of the C library."""
    return -math.log(-math.log(by_hand(*key)))


@pytest.mark.parametrize("key", [(0, 0, 0), (5, 1, 77), (2**63 - 1, 3, 1000)])
def test_an_entry_is_the_one_computed_by_hand(key):
    noise = rows(*key, vocab_size=40)[0]
    assert noise.tolist() == pytest.approx([gumbel_by_hand(*key, token) for token in range(40)], abs=2e-6)


@pytest.mark.parametrize("stream", [Stream.ACCEPTANCE, Stream.RESIDUAL])
def test_further_streams_are_those_computed_by_hand(stream):
    key = torch.tensor([[5], [1], [77]])
    noise = gumbel_noise(*key, 10, stream)[0]
    expected = [gumbel_by_hand(5, 1, 77, token, int(stream)) for token in range(10)]
    assert noise.tolist() == pytest.approx(expected, abs=2e-6)
    assert uniform_noise(*key, stream).item() == by_hand(5, 1, 77, 0, int(stream))


def test_bits_depend_on_no_shape_order_or_earlier_call():
    positions = torch.arange(150)
    noise = rows(7, 2, positions)  # several chunks
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    assert torch.equal(rows(7, 2, positions[order]), noise[order])
    assert torch.equal(rows(7, 2, 93)[0], noise[93])
    assert torch.equal(rows(7, 2, positions, vocab_size=31), noise[:, :31])


def test_torchs_generator_is_neither_used_nor_moved():
    state = torch.random.get_rng_state()
    rows(0, 0, 0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("varied", [0, 1, 2])
def test_noise_is_gumbel_along_every_argument(varied):
    key: list = [3, 0, 9]
    key[varied] = torch.arange(200)
    values = uniform(rows(*key, vocab_size=500))
    assert bool(((values > 0) & (values < 1)).all())
    flat = values.flatten().sort().values
    expected = (torch.arange(len(flat)) + 0.5) / len(flat)
    assert float((flat - expected).abs().max()) * len(flat) ** 0.5 < 1.63  # Kolmogorov-Smirnov, 1 %
    # and of one token over all rows, where a key that mixes badly shows
    column = values[:, 17].sort().values
    assert float((column - (torch.arange(200) + 0.5) / 200).abs().max()) * 200**0.5 < 1.63


def test_counts_of_equal_cells_are_even():
    values = uniform(rows(torch.arange(50), 0, 4))
    counts = torch.histc(values, bins=100, min=0, max=1)
    expected = values.numel() / 100
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 60 < chi_square < 149  # 99 degrees of freedom: 0.1 % on either side


@pytest.mark.parametrize("varied", ["seed", "sample", "position"])
@pytest.mark.parametrize("step", [1, 2, 256, 2**32])
def test_rows_of_neighbouring_keys_are_uncorrelated(varied, step):
    count = 40
    key = {"seed": 0, "sample": 0, "position": 0} | {varied: torch.arange(count) * step}
    noise = rows(key["seed"], key["sample"], key["position"])
    correlations = torch.corrcoef(noise) - torch.eye(count)
    assert float(correlations.abs().max()) < 5 / V**0.5


def test_tokens_are_uncorrelated():
    noise = rows(11, 0, torch.arange(V), vocab_size=40)
    correlations = torch.corrcoef(noise.T) - torch.eye(40)
    assert float(correlations.abs().max()) < 5 / V**0.5


def test_seed_sample_and_position_do_not_stand_for_each_other():
    small = range(12)
    keys = torch.tensor([(a, b, c) for a in small for b in small for c in small])
    noise = gumbel_noise(*keys.unbind(dim=1), vocab_size=3)
    assert len(noise.unique(dim=0)) == len(keys)


def grid_of_uniforms(stream: Stream):
    """One number per seed (100), sample (4) and position (100)."""
    seeds, samples, positions = torch.meshgrid(
        torch.arange(100), torch.arange(4), torch.arange(100), indexing="ij"
    )
    return uniform_noise(seeds, samples, positions, stream)


def chi_square_of_pairs(first, second, bins: int = 20) -> float:
    """Of the joint distribution of two uniform numbers over bins x bins cells."""
    cells = (first * bins).long() * bins + (second * bins).long()
    counts = torch.bincount(cells.flatten(), minlength=bins * bins).double()
    expected = cells.numel() / bins**2
    return float(((counts - expected) ** 2 / expected).sum())


PAIR_BOUNDS = (305, 496)  # chi-square with 399 degrees of freedom: 0.02 % below, 0.06 % above


@pytest.mark.parametrize("stream", list(Stream))
def test_every_stream_is_uniform(stream):
    values = grid_of_uniforms(stream).flatten().sort().values
    expected = (torch.arange(len(values)) + 0.5) / len(values)
    assert float((values - expected).abs().max()) * len(values) ** 0.5 < 1.95  # Kolmogorov-Smirnov, 0.1 %


@pytest.mark.parametrize("stream", list(Stream))
@pytest.mark.parametrize("along", [0, 1, 2], ids=["seed", "sample", "position"])
def test_neighbours_along_every_argument_are_independent(stream, along):
    values = grid_of_uniforms(stream)
    pairs = values.narrow(along, 0, values.shape[along] - 1), values.narrow(along, 1, values.shape[along] - 1)
    assert PAIR_BOUNDS[0] < chi_square_of_pairs(*pairs) < PAIR_BOUNDS[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Stream.CHOICE, Stream.ACCEPTANCE),
        (Stream.CHOICE, Stream.RESIDUAL),
        (Stream.ACCEPTANCE, Stream.RESIDUAL),
    ],
)
def test_streams_at_one_position_are_independent(one, other):
    statistic = chi_square_of_pairs(grid_of_uniforms(one), grid_of_uniforms(other))
    assert PAIR_BOUNDS[0] < statistic < PAIR_BOUNDS[1]


def test_the_acceptance_number_is_independent_of_the_noise_that_drew_the_draft():
    keys = torch.arange(40_000), torch.zeros(40_000, dtype=torch.int64), torch.full((40_000,), 9)
    accept = uniform_noise(*keys, Stream.ACCEPTANCE)
    draws = gumbel_noise(*keys, vocab_size=8)
    for token in range(8):
        statistic = chi_square_of_pairs(accept, uniform(draws[:, token]))
        assert PAIR_BOUNDS[0] < statistic < PAIR_BOUNDS[1]
    winners = draws.argmax(dim=-1)  # the draft under equal logits
    counts = torch.histogramdd(torch.stack([accept, winners.double()], dim=1), bins=[10, 8]).hist
    assert float(((counts - 500) ** 2 / 500).sum()) < 127  # 79 degrees of freedom, 0.05 %
