"""Which rows can be trained on: the rules, and how many rows each of them leaves out."""

from dataclasses import asdict, dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PROMPT, COMPLETION = "prompt_ids", "completion_ids"
SHARD_SCHEMA = pa.schema([(PROMPT, pa.list_(pa.int32())), (COMPLETION, pa.list_(pa.int32()))])
MIN_COMPLETION = 2  # the first token is an anchor only with a token after it


@dataclass(frozen=True)
class RowRules:
    """What a row must be like.

    Attributes:
        max_tokens: of prompt and completion together.
        vocab_size: ids must be below it.
        mask_token_id: rows with this id are left out: it marks the places to draft.
    """

    max_tokens: int
    vocab_size: int
    mask_token_id: int | None = None


@dataclass(frozen=True)
class RowCounts:
    """What became of rows; all but `tokens` and `completion_tokens` are rows.

    Attributes:
        errors: left out, they say so themselves. no_prompt, no_completion: left out, nothing to learn.
        with_mask: left out, they hold the mask token. too_long: left out.
        bad_ids: hold ids outside the vocabulary. used: the others.
        tokens, completion_tokens: of those used.
    """

    rows: int = 0
    errors: int = 0
    no_prompt: int = 0
    no_completion: int = 0
    bad_ids: int = 0
    with_mask: int = 0
    too_long: int = 0
    used: int = 0
    tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "RowCounts") -> "RowCounts":
        mine, its = asdict(self), asdict(other)
        return RowCounts(**{field.name: mine[field.name] + its[field.name] for field in fields(self)})


def usable_rows(
    prompts: pa.Array, completions: pa.Array, errors: pa.Array, rules: RowRules
) -> tuple[pa.Table, RowCounts, int | None]:
    """The rows to train on.

    Args:
        prompts, completions: lists of token ids, null where there are none.
        errors: null where a row is fine.
    Returns:
        A table of SHARD_SCHEMA, the counts, and an id outside the vocabulary, if there is any.
    """
    prompt, completion = _Lists(prompts), _Lists(completions)
    faults = {
        "errors": errors.is_valid().to_numpy(zero_copy_only=False),
        "no_prompt": prompt.lengths == 0,
        "no_completion": completion.lengths < MIN_COMPLETION,
        "bad_ids": prompt.outside(rules.vocab_size) | completion.outside(rules.vocab_size),
        "with_mask": prompt.holds(rules.mask_token_id) | completion.holds(rules.mask_token_id),
        "too_long": prompt.lengths + completion.lengths > rules.max_tokens,
    }
    fine = np.ones(len(prompts), dtype=bool)
    counts = {}
    for name, has_fault in faults.items():
        counts[name] = int((fine & has_fault).sum())
        if name == "bad_ids" and counts[name]:
            row = int(np.flatnonzero(fine & has_fault)[0])
            bad_id = _outside(prompt.row(row), rules.vocab_size) or _outside(
                completion.row(row), rules.vocab_size
            )
            return SHARD_SCHEMA.empty_table(), RowCounts(rows=len(prompts), **counts), bad_id
        fine &= ~has_fault
    keep = pa.array(fine)
    table = pa.table([prompts.filter(keep), completions.filter(keep)], names=[PROMPT, COMPLETION])
    answer_tokens = int(completion.lengths[fine].sum())
    return (
        table.cast(SHARD_SCHEMA),
        RowCounts(
            rows=len(prompts),
            **counts,
            used=int(fine.sum()),
            tokens=int(prompt.lengths[fine].sum()) + answer_tokens,
            completion_tokens=answer_tokens,
        ),
        None,
    )


def _outside(ids: np.ndarray, vocab_size: int) -> int | None:
    """The first id that is none of the vocabulary; a null stands for -1."""
    found = ids[(ids < 0) | (ids >= vocab_size)]
    return int(found[0]) if len(found) else None


class _Lists:
    """A column of lists as flat numpy arrays."""

    def __init__(self, column: pa.Array) -> None:
        self.lengths = (
            pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        flat = pc.fill_null(pc.list_flatten(column).cast(pa.int64()), -1)
        self._values = flat.to_numpy(zero_copy_only=False)
        self._rows = np.repeat(np.arange(len(column)), self.lengths)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def row(self, index: int) -> np.ndarray:
        """Ids of one row."""
        return self._values[self._starts[index] : self._starts[index + 1]]

    def outside(self, vocab_size: int) -> np.ndarray:
        """(rows,) bool: rows with an id that is none of the vocabulary."""
        return self._rows_where((self._values < 0) | (self._values >= vocab_size))

    def holds(self, token_id: int | None) -> np.ndarray:
        """(rows,) bool: rows with this id."""
        return self._rows_where(self._values == (-1 if token_id is None else token_id))

    def _rows_where(self, condition: np.ndarray) -> np.ndarray:
        found = np.zeros(len(self.lengths), dtype=bool)
        found[self._rows[condition]] = True
        return found
