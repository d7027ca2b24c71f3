"""The tokenizer of the demo model: byte-level BPE, one token per digit, ChatML turns."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pipelines.demo.tasks import generate_tasks

PAD_TOKEN = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
MASK_TOKEN = "<|mask|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def build_tokenizer(
    seed: int = 0, num_tasks: int = 20_000, vocab_size: int = 1024
) -> PreTrainedTokenizerFast:
    """Train on generated training tasks.

    Args:
        seed: seed of the task stream.
        num_tasks: tasks read; more change the merges little.
        vocab_size: entries in total: 4 special tokens, 256 bytes, the rest merges.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])  # fmt: skip
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, TURN_START, TURN_END, MASK_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    turns = (
        f"user\n{t.prompt}\nassistant\n{t.completion}\nsystem\n" for t in generate_tasks(seed, num_tasks)
    )
    bpe.train_from_iterator(turns, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD_TOKEN, eos_token=TURN_END, mask_token=MASK_TOKEN,
        additional_special_tokens=[TURN_START], model_max_length=2048, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def write_tokenizer(path: Path) -> None:
    """Build the demo tokenizer and save its usual files into a directory."""
    path.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(path)
