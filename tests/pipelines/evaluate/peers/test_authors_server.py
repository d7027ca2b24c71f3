from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from pipelines.evaluate.peers.authors_server import (
    AuthorsPeer,
    accept_positive_crop,
    attend_like_flash,
    load_source,
)

SOURCE = """
import torch

class OrthrusLM:
    @classmethod
    def from_pretrained(cls, path, *, config, dtype, attn_implementation, use_safetensors):
        made = cls()
        made.loaded = path, config.model_type, config.vocab_size, dtype, attn_implementation
        return made

    def eval(self):
        return self

    def generate(self, input_ids, *, max_new_tokens, eos_token_id, use_diffusion_mode):
        assert use_diffusion_mode
        extra = torch.tensor([[max_new_tokens, eos_token_id]])
        return torch.cat([input_ids, extra], dim=1)
"""


class OldCache(DynamicCache):
    """A cache of its own, so that the patch stays in this test."""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "model.py").write_text(SOURCE)
    return tmp_path


@pytest.fixture
def peer(checkout, model_dir, monkeypatch):
    monkeypatch.setattr("transformers.DynamicCache", OldCache)
    options = {"dtype": "float32", "threads": torch.get_num_threads()}
    return AuthorsPeer({"model": str(model_dir), "path": str(checkout), **options})


def test_their_model_gets_the_checkpoint_as_a_qwen3_in_fp32(peer, model_dir):
    assert peer._model.loaded == (str(model_dir), "qwen3", 1024, torch.float32, "sdpa_last_rows")


def test_outputs_leave_the_prompt_out(peer):
    outputs = peer.complete([[5, 6], [7]], in_flight=1, max_new_tokens=9, eos_ids=[2])
    assert outputs == [[9, 2], [9, 2]]


@pytest.mark.parametrize("limits", [{"in_flight": 2, "eos_ids": [2]}, {"in_flight": 1, "eos_ids": [2, 3]}])
def test_what_their_code_cannot_do_is_refused(peer, limits):
    with pytest.raises(ValueError, match="one sequence, at most one EOS"):
        peer.complete([[5]], max_new_tokens=9, **limits)


def test_the_file_itself_is_fine_too(checkout):
    assert load_source(checkout / "src" / "model.py").OrthrusLM


def test_a_path_without_their_code_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no src.model\.py in there"):
        load_source(tmp_path)


@pytest.mark.parametrize(("length", "left"), [(4, 4), (9, 7), (-2, 5)])
def test_crop_takes_the_length_to_keep_again(length, left):
    class Cache(DynamicCache):
        pass

    accept_positive_crop(Cache)
    cache = Cache()
    cache.update(torch.zeros(1, 1, 7, 2), torch.zeros(1, 1, 7, 2), 0)
    cache.crop(length)
    assert cache.get_seq_length() == left


@pytest.mark.parametrize(("is_causal", "first_row"), [(None, [1, 1, 1, 0]), (False, [1, 1, 1, 1])])
def test_query_rows_are_the_last_ones_of_the_keys(is_causal, first_row):
    module = SimpleNamespace(is_causal=True, training=False)
    cells = torch.eye(4)[None, None]  # equal keys and one-hot values: the output says which cells are seen
    out, _ = attend_like_flash(
        module, torch.zeros(1, 1, 2, 4), cells, cells, None, is_causal=is_causal, scaling=1.0
    )
    seen = (out[0, :, 0] > 0).int().tolist()
    assert seen == [first_row, [1, 1, 1, 1]]
