import subprocess
import sys

import pytest

from orthrus_core import EngineConfig, SamplingParams
from orthrus_core.evaluation.memory import decode_and_weigh, in_fresh_process, peak_rss_bytes
from tests.small_models import small_orthrus

pytestmark = pytest.mark.slow  # fresh processes that import torch
MIB = 2**20


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    small_orthrus(eos_token_id=2).save_pretrained(path)
    return {
        mode: in_fresh_process(
            decode_and_weigh,
            str(path),
            [[5, 6, 7], [8, 9]],
            dtype="float32",
            device="cpu",
            threads=1,
            params=SamplingParams(max_new_tokens=8),
            config=EngineConfig(mode=mode, token_budget=32, max_sequences=2, max_context=64),
        )
        for mode in ("consensus", "autoregressive")
    }


def test_both_modes_have_the_same_cache_to_the_byte(weighed):
    consensus, ar = weighed["consensus"], weighed["autoregressive"]
    # 2 layers, key and value, 2 heads of 16 numbers, 4 bytes each
    assert consensus.cache_bytes_per_token == ar.cache_bytes_per_token == 2 * 2 * 2 * 16 * 4
    # 2 sequences of 64 cells in pages of 16, and the scratch page
    assert consensus.cache_bytes == ar.cache_bytes == 512 * (2 * 64 + 16)


def test_the_peak_is_at_least_what_loading_took(weighed):
    for mode, memory in weighed.items():
        assert memory.mode == mode
        assert 20 * MIB < memory.loaded_bytes <= memory.peak_bytes


def test_the_peak_of_a_fresh_process_holds_nothing_of_its_parents():
    ballast = bytearray(b"x") * (2 * peak_rss_bytes())
    assert peak_rss_bytes() > len(ballast)
    assert in_fresh_process(peak_rss_bytes) < len(ballast)


def test_the_peak_counts_memory_that_was_given_back():
    code = (
        "from orthrus_core.evaluation.memory import peak_rss_bytes as peak\n"
        "before = peak()\nx = b'x' * (2 * before)\ndel x\nprint(peak() >= 2 * before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
