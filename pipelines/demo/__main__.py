"""Writes the demo's files: `python -m pipelines.demo KIND DIRECTORY`, `--help` names the kinds."""

import argparse
from pathlib import Path

from transformers import AutoTokenizer

from pipelines.demo.rows import write_given_text, write_prompts, write_training_prompts
from pipelines.demo.tokenizer import write_tokenizer

TOKENIZER = Path(__file__).with_name("model")


def main() -> None:
    """Parse the command line and write one kind of file."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("tokenizer", help="the tokenizer, trained on generated tasks").add_argument(
        "directory", type=Path
    )
    held_out = kinds.add_parser("prompts", help="held-out prompts with their answers, as Parquet shards")
    training = kinds.add_parser("training-prompts", help="prompts of the training split, as Parquet shards")
    given = kinds.add_parser(
        "given-text", help="the training prompts with the tasks' completions, as token ids"
    )
    given.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    for parser_of_kind, rows, seed in ((held_out, 500, 1), (training, 12_000, 2), (given, 12_000, 2)):
        parser_of_kind.add_argument("directory", type=Path)
        parser_of_kind.add_argument("--rows", type=int, default=rows)
        parser_of_kind.add_argument("--seed", type=int, default=seed)
    options = parser.parse_args()
    if options.kind == "tokenizer":
        write_tokenizer(options.directory)
    elif options.kind == "prompts":
        write_prompts(options.directory, num_rows=options.rows, seed=options.seed)
    elif options.kind == "given-text":
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer, trust_remote_code=False)
        write_given_text(options.directory, tokenizer, options.rows, num_shards=4, seed=options.seed)
    else:
        write_training_prompts(options.directory, num_rows=options.rows, num_shards=4, seed=options.seed)


if __name__ == "__main__":
    main()
