"""What a row says does not depend on the rows beside it, however many threads there are."""

import pytest
import torch

from orthrus_core.models.readout import read_out


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lone_row_of_a_large_vocabulary_has_the_bits_that_it_has_among_others(two_threads, dtype):
    logits = (3 * torch.randn(64, 100_003, generator=torch.Generator().manual_seed(0))).to(dtype)
    together = read_out(logits)
    alone = [read_out(row) for row in logits.split(1)]
    assert torch.equal(torch.cat([one.logsumexp for one in alone]), together.logsumexp)
    assert torch.equal(torch.cat([one.logprobs for one in alone]), together.logprobs)
