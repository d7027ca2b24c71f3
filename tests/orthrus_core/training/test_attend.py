import torch
from torch.nn.functional import scaled_dot_product_attention

from orthrus_core.training.attend import masked_attention


def test_grouped_heads_attend_as_sdpa_does():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 6, 5, 8, generator=generator)
    k, v = (torch.randn(2, 2, 7, 8, generator=generator) for _ in range(2))
    mask = torch.rand(2, 1, 5, 7, generator=generator) < 0.6
    mask[..., 0] = True
    expected = scaled_dot_product_attention(
        q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), attn_mask=mask, scale=0.3
    )
    out = masked_attention(q, k, v, mask=mask, scaling=0.3)
    torch.testing.assert_close(out, expected.transpose(1, 2))


def test_autocast_changes_the_products_only_within_bfloat16():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 4, 8, generator=generator) for _ in range(3))
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    exact = masked_attention(q, k, v, mask=mask, scaling=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = masked_attention(q, k, v.bfloat16(), mask=mask, scaling=0.3)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)
