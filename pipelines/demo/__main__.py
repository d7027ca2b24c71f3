"""Writes the demo's files: `python -m pipelines.demo tokenizer|prompts|training-prompts DIRECTORY`."""

import argparse
from pathlib import Path

from pipelines.demo.rows import write_prompts, write_training_prompts
from pipelines.demo.tokenizer import write_tokenizer


def main() -> None:
    """Parse the command line and write one kind of file."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("tokenizer", help="the tokenizer, trained on generated tasks").add_argument(
        "directory", type=Path
    )
    held_out = kinds.add_parser("prompts", help="held-out prompts with their answers, as Parquet shards")
    training = kinds.add_parser("training-prompts", help="prompts of the training split, as Parquet shards")
    for parser_of_kind, rows, seed in ((held_out, 500, 1), (training, 12_000, 2)):
        parser_of_kind.add_argument("directory", type=Path)
        parser_of_kind.add_argument("--rows", type=int, default=rows)
        parser_of_kind.add_argument("--seed", type=int, default=seed)
    options = parser.parse_args()
    if options.kind == "tokenizer":
        write_tokenizer(options.directory)
    elif options.kind == "prompts":
        write_prompts(options.directory, num_rows=options.rows, seed=options.seed)
    else:
        write_training_prompts(options.directory, num_rows=options.rows, num_shards=4, seed=options.seed)


if __name__ == "__main__":
    main()
