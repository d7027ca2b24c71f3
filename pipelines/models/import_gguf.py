"""Writes a plain checkpoint of a GGUF file: `python -m pipelines.models.import_gguf FILE OUTPUT`.

Weights are dequantised and rounded to BF16. The checkpoint is loaded again and compared with the file before
it gets its name. Exit codes: 0 done, 2 a file that cannot be imported (one line on stderr), 1 anything else.
"""

import argparse
import logging
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orthrus_core.errors import ConfigError
from pipelines.checkpoint.directory import load_tokenizer
from pipelines.command.job import run_job_command
from pipelines.models.gguf_file import GgufFile, read_gguf

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Byte-level tokenizers by their splits, for which transformers has no entry and takes GPT-2's for all.
GPT2_SPLIT = frozenset({"gpt-2", "phi-2", "mpt", "olmo", "jais"})
DIGITS_THEN_GPT2_SPLIT = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"})

TEXTS = (
    "The quick brown fox doesn't jump; it's 3.14 times 1234567 (about 25%).",
    "def f(x):\n\treturn  x + 12    # four spaces\r\n\r\n   33  44 ",
    "Größe, naïve café, Ελλάδα, Привет, 你好，世界, こんにちは, عربى, 🙂👩‍👩‍👧",
)

logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Import one file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.models.import_gguf", description=__doc__)
    parser.add_argument("file", type=Path, help="a GGUF file that transformers reads")
    parser.add_argument("output", type=Path, help="the checkpoint's directory, which must not exist")
    options = parser.parse_args(arguments)
    return run_job_command(lambda: import_gguf(options.file, options.output))


def import_gguf(path: Path, output: Path) -> int:
    """Write a plain checkpoint: weights in BF16, tokenizer, chat template, generation config.

    Raises:
        ConfigError: the file cannot be imported, or what was written does not say what the file says.
    """
    if output.exists():
        raise ConfigError(f"{output}: exists; remove it or name another directory")
    file = read_gguf(path)
    _check_architecture(file)
    tokenizer = _tokenizer(file)
    model = _model(file)
    partial = output.parent / f".{output.name}.{uuid.uuid4().hex}.tmp"
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _check_weights(partial, model)
        _check_tokenizer(load_tokenizer(str(partial)), tokenizer, file)
        os.rename(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("imported file=%s output=%s weights=%d", path, output, file.num_weights)
    return 0


def _check_architecture(file: GgufFile) -> None:
    """Refuse what transformers does not read, or what cannot carry a head, before weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from orthrus_core.models.requirements import UnsupportedBackboneError, check_backbone

    try:
        config = AutoConfig.from_pretrained(
            file.path.parent, gguf_file=file.path.name, trust_remote_code=False
        )
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
        check_backbone(skeleton)
    except UnsupportedBackboneError as error:
        raise ConfigError(f"{file.path}: {error}") from error
    except (ValueError, KeyError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{file.path}: no support for architecture {file.architecture}: {reason:.300}"
        ) from error


def _tokenizer(file: GgufFile) -> "PreTrainedTokenizerBase":
    """The file's tokenizer, which splits text as the file says, with the file's pad token."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            file.path.parent, gguf_file=file.path.name, trust_remote_code=False
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file.path}: no support for its tokenizer: {reason:.300}") from error
    split = file.pre_tokenizer
    if split in DIGITS_THEN_GPT2_SPLIT:
        digits = pre_tokenizers.Digits(individual_digits=True)
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif split is not None and split not in GPT2_SPLIT and split not in GGUF_PRE_TOKENIZER_SPLITS:
        raise ConfigError(
            f"{file.path}: it splits text by the rule {split!r} (tokenizer.ggml.pre), unknown here: "
            "ids would differ from those it was trained on"
        )
    tokenizer.pad_token = file.tokens[file.pad_id]
    return tokenizer


def _model(file: GgufFile) -> "PreTrainedModel":
    """The file's model in BF16, with its ids of EOS and pad, as if it had never been quantised."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.path.parent,
        gguf_file=file.path.name,
        trust_remote_code=False,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    if num_weights != file.num_weights:
        raise ConfigError(
            f"{file.path}: it holds {file.num_weights} weights, the model made of it has {num_weights}: "
            "transformers leaves some of it out (rope_freqs.weight, for one) or makes some up"
        )
    eos = file.eos_ids[0] if len(file.eos_ids) == 1 else file.eos_ids
    model.config.eos_token_id, model.config.pad_token_id = file.eos_ids[0], file.pad_id
    bos = model.config.bos_token_id
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=file.pad_id)
    return model


def _check_weights(directory: Path, model: "PreTrainedModel") -> None:
    """Refuse a checkpoint that loads as other weights than those it was written from."""
    import torch
    from transformers import AutoModelForCausalLM

    written = AutoModelForCausalLM.from_pretrained(
        directory, dtype="auto", trust_remote_code=False, use_safetensors=True
    ).state_dict()
    for name, tensor in model.state_dict().items():
        found = written.get(name)
        if found is None or not (found.dtype == tensor.dtype == torch.bfloat16):
            raise ConfigError(f"{directory}: {name} was not written in BF16")
        if not torch.equal(found.view(torch.int16), tensor.view(torch.int16)):
            raise ConfigError(f"{directory}: {name} is not what was written")


def _check_tokenizer(
    written: "PreTrainedTokenizerBase", tokenizer: "PreTrainedTokenizerBase", file: GgufFile
) -> None:
    """Refuse a tokenizer with other ids than the file's, for texts, for special tokens, for both mixed."""
    if written.eos_token_id != file.eos_ids[0] or written.pad_token_id != file.pad_id:
        found = f"EOS {written.eos_token_id} and pad {written.pad_token_id}"
        raise ConfigError(f"{file.path}: EOS {file.eos_ids[0]} and pad {file.pad_id} were written as {found}")
    if written.chat_template != tokenizer.chat_template:
        raise ConfigError(f"{file.path}: its chat template is not what was written")
    for id in file.whole_ids:
        ids = written.encode(file.tokens[id], add_special_tokens=False)
        if ids != [id]:
            raise ConfigError(
                f"{file.path}: the special token {file.tokens[id]!r} (id {id}) is read as {ids}"
            )
    specials = [file.tokens[id] for id in file.whole_ids]
    for text in (*TEXTS, "a ".join(specials), "\n".join([*specials, *TEXTS])):
        if written.encode(text) != tokenizer.encode(text):
            raise ConfigError(f"{file.path}: its tokenizer gives other ids once written, for {text[:60]!r}")


if __name__ == "__main__":
    sys.exit(main())
