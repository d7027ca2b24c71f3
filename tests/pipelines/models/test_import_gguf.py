"""A tiny GGUF file, written here, becomes a checkpoint; others are refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipelines.models.import_gguf import main

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

D, HEADS, MLP = 64, 2, 96
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
NORMAL, CONTROL = 1, 3


def byte_tokens() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_gguf(path: Path, *, architecture="llama", eos=2, rows=None, pre="smollm", extra=()) -> Path:
    """Write a random model of one layer with a byte-level tokenizer.

    Args:
        rows: of the embedding table; None: one for every token.
        extra: tensors beside the architecture's own, (name, array).
    """
    rng = np.random.default_rng(0)
    tokens = [*SPECIALS, *byte_tokens(), "ĠĠ"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(D)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_vocab_size(rows or len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL] * len(SPECIALS) + [NORMAL] * (len(tokens) - len(SPECIALS)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    if eos is not None:
        writer.add_eos_token_id(eos)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    half = D // 2
    shapes = {"attn_q": (D, D), "attn_k": (half, D), "attn_v": (half, D), "attn_output": (D, D)}
    shapes |= {"ffn_gate": (MLP, D), "ffn_up": (MLP, D), "ffn_down": (D, MLP)}
    tensors = {f"blk.0.{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    tensors["token_embd.weight"] = rng.normal(size=(rows or len(tokens), D))
    for name, tensor in tensors.items():
        quantised = gguf.quants.quantize(tensor.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, rng.normal(size=D).astype(np.float32))
    for name, tensor in extra:
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gguf")
    path, output = write_gguf(directory / "tiny.gguf"), directory / "plain"
    assert main([str(path), str(output)]) == 0
    return path, output


def refusal(path: Path, capsys) -> str:
    output = path.parent / "plain"
    assert main([str(path), str(output)]) == 2
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name]
    lines = capsys.readouterr().err.strip().splitlines()
    return next(line for line in lines if line.startswith("config error:"))


def test_weights_are_the_dequantised_ones_rounded_to_bf16(imported):
    path, output = imported
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.ffn_down.weight")
    expected = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, expected)


def test_eos_pad_and_template_are_the_files(imported):
    tokenizer = AutoTokenizer.from_pretrained(imported[1])
    model = AutoModelForCausalLM.from_pretrained(imported[1])
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == (
        "<|im_start|>a<|im_end|>"
    )


def test_digits_are_split_off_before_spaces_merge(imported):
    tokenizer = AutoTokenizer.from_pretrained(imported[1])
    assert tokenizer.tokenize("a  12<|im_end|>") == ["a", "ĠĠ", "1", "2", "<|im_end|>"]


def test_the_checkpoint_carries_a_head(imported):
    from orthrus_core.models.loading import load_model

    assert load_model(imported[1], needs_head=False).config.backbone_type == "llama"


def test_an_architecture_that_transformers_does_not_read_is_refused(tmp_path, capsys):
    line = refusal(write_gguf(tmp_path / "a.gguf", architecture="rwkv7"), capsys)
    assert "no support for architecture rwkv7" in line


def test_an_architecture_without_two_views_is_refused(tmp_path, capsys):
    line = refusal(write_gguf(tmp_path / "a.gguf", architecture="gpt2"), capsys)
    assert "cannot carry a diffusion head" in line


def test_a_tokenizer_without_eos_is_refused(tmp_path, capsys):
    assert "has no EOS" in refusal(write_gguf(tmp_path / "a.gguf", eos=None), capsys)


def test_a_vocabulary_larger_than_the_table_is_refused(tmp_path, capsys):
    line = refusal(write_gguf(tmp_path / "a.gguf", rows=256), capsys)
    assert "260 tokens in the vocabulary, 256 rows in the embedding table" in line


def test_a_split_that_nobody_knows_is_refused(tmp_path, capsys):
    assert "'unheard-of'" in refusal(write_gguf(tmp_path / "a.gguf", pre="unheard-of"), capsys)


def test_tensors_that_transformers_leaves_out_are_refused(tmp_path, capsys):
    factors = [("rope_freqs.weight", np.ones(16, dtype=np.float32))]
    assert "transformers leaves some of it out" in refusal(
        write_gguf(tmp_path / "a.gguf", extra=factors), capsys
    )


def test_an_output_that_exists_is_kept(imported, capsys):
    path, output = imported
    assert main([str(path), str(output)]) == 2
    assert "exists; remove it" in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused(tmp_path, capsys):
    path = tmp_path / "a.gguf"
    path.write_bytes(b"PK\x03\x04")
    assert "no GGUF file" in refusal(path, capsys)


def test_a_file_that_ends_early_is_refused(tmp_path, capsys):
    path = write_gguf(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:1000])
    assert "no whole GGUF file" in refusal(path, capsys)
