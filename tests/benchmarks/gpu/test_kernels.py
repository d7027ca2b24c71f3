"""Attention in other kernel sizes."""

import torch

from orthrus_core.attention.spec import AttentionSpec
from tests.benchmarks.gpu.kernels import Load, time_kernels


def test_every_change_of_a_size_is_timed_and_named(kernel_device):
    spec = AttentionSpec(4, 2, 16, 16, 32, torch.float32, kernel_device)
    load = Load(sequences=1, rows_each=2, context=20)
    rows = list(time_kernels(spec, [load], [{}, {"queries": 16, "tile_cells": 32}]))
    assert [row["sizes"] for row in rows] == ["default", "queries 16, tile_cells 32"]
    # 20 cells of 2 heads, 16 numbers of 4 bytes, keys and values
    assert all(abs(row["gb_per_s"] * row["us"] * 1e3 - 20 * 2 * 16 * 4 * 2) < 1e-3 for row in rows)


def test_sizes_too_small_for_the_heads_are_left_out():
    spec = AttentionSpec(24, 1, 16, 16, 32, torch.float32, torch.device("cpu"))
    load = Load(sequences=1, rows_each=1, context=5)
    assert list(time_kernels(spec, [load], [{"queries": 16}])) == []
