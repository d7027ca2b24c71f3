"""Names, types and meanings of the columns that go in, travel between stages and come out."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from orthrus_core.errors import ConfigError
from pipelines.generate.arrow_types import stored_type

# Columns that travel between the stages of the dataset and are never written.
HIDDEN = "__orthrus_"
SHARD = HIDDEN + "shard"  # int32, number of the input file
UNIT = HIDDEN + "unit"  # int32, number of the unit within its shard
ROW = HIDDEN + "row"  # int64, row within its shard
ROW_ERROR = HIDDEN + "error"  # string, why this row cannot be generated; null: it can
PROMPT_IDS = HIDDEN + "prompt_ids"  # list<int32>
PLACE = HIDDEN + "place"  # int32, row within its unit, from 0
PARAMS = HIDDEN + "params"  # string, json of sampling options that replace the config's for this row
SAMPLES = HIDDEN + "samples"  # list<int32>, numbers of the completions to make
TRUNCATED = HIDDEN + "truncated"  # int32, tokens cut from the prompt
ENGINE = HIDDEN + "engine"  # string, json of the engine's figures on a unit's first row
LINE = HIDDEN + "line"  # large_binary, of jsonl: the row as it stands in the file; null: it is none
OWN = (
    HIDDEN + "own_"
)  # + name, of Parquet: a column in its file's own type, where that is not the one of all files

# What the errors of all rows of a unit begin with whose input cannot be read.
UNREADABLE = "input is damaged: "
OVERWRITTEN = "input was overwritten: "
UNFIT = "input types differ: "
INPUT_FAULTS = (UNREADABLE, OVERWRITTEN, UNFIT)


@dataclass(frozen=True)
class Column:
    """One output column."""

    name: str
    type: pa.DataType
    meaning: str


IDENTITY = (
    Column("id", pa.string(), "input.id_column's value, or {shard}:{row} counted from 0"),
    Column("sample", pa.int32(), "number of the completion for this prompt, from 0"),
)
RESULT = (
    Column("completion", pa.string(), "the text, without special tokens and what stopped it; null on error"),
    Column("finish_reason", pa.string(), "stop, length, context or error"),
    Column("error", pa.string(), "why there is no completion; null if fine"),
    Column("prompt_tokens", pa.int32(), "tokens of the prompt after the chat template"),
    Column("truncated_tokens", pa.int32(), "tokens that input.prompt.overlong cut from the prompt; 0: none"),
    Column("completion_tokens", pa.int32(), "tokens emitted, the final end token included"),
    Column("steps", pa.int32(), "engine steps that carried this row"),
    Column("forwards", pa.int32(), "draft and verify passes that carried this row"),
    Column("drafted", pa.int32(), "draft tokens proposed"),
    Column("accepted", pa.int32(), "draft tokens accepted and emitted"),
    Column("acceptance_length", pa.float32(), "tokens emitted per step; plain AR has 1.0"),
    Column("tokens_per_forward", pa.float32(), "tokens emitted per draft or verify pass (TPF)"),
    Column("min_logit_gap", pa.float32(), "smallest gap between the two best logits of any emitted token"),
    Column("mean_logprob", pa.float32(), "mean log-probability of the emitted tokens"),
    Column(
        "exactness",
        pa.string(),
        "exact: same tokens as AR decoding, checked at start-up; distribution: as likely as in AR decoding "
        "(decode.consensus rejection); or unverified",
    ),
    Column("seed", pa.int64(), "seed of this row: its own or the config's"),
)
LOGPROBS = Column("logprobs", pa.list_(pa.float32()), "log-probability of each of the completion's tokens")
TOKEN_IDS = Column("token_ids", pa.list_(pa.int32()), "ids of the completion's tokens, end token included")
PROMPT_TOKEN_IDS = Column("prompt_token_ids", pa.list_(pa.int32()), "ids of the prompt's tokens")
DROPPED_REASON = Column(
    "dropped_reason", pa.string(), "in dropped/ only: the filter that the row failed first, and its value"
)
OPTIONAL = (
    LOGPROBS,
    TOKEN_IDS,
    PROMPT_TOKEN_IDS,
    DROPPED_REASON,
)  # no carried column has their names either way

COUNTERS = ("prompt_tokens", "completion_tokens", "steps", "forwards", "drafted", "accepted")


@dataclass(frozen=True)
class TableLayout:
    """Which columns one run reads, carries and writes.

    Attributes:
        carried: carried input columns with the types they have in every output file.
        read: input columns that are read, carried or not.
        token_ids, prompt_token_ids, logprobs: whether these columns are written.
    """

    carried: pa.Schema
    read: tuple[str, ...]
    token_ids: bool = False
    prompt_token_ids: bool = False
    logprobs: bool = False

    @property
    def output(self) -> pa.Schema:
        """Schema of every output file."""
        result = [*RESULT]
        if self.logprobs:
            result.append(LOGPROBS)
        if self.token_ids:
            result.append(TOKEN_IDS)
        if self.prompt_token_ids:
            result.append(PROMPT_TOKEN_IDS)
        fields = [pa.field(c.name, c.type) for c in IDENTITY]
        fields += [self.carried.field(name) for name in self.carried.names]
        return pa.schema(fields + [pa.field(c.name, c.type) for c in result])

    @property
    def dropped(self) -> pa.Schema:
        """Schema of every side file of dropped rows."""
        return self.output.append(pa.field(DROPPED_REASON.name, DROPPED_REASON.type))


def choose_layout(
    schema: pa.Schema,
    *,
    needed: Sequence[str],
    carry: Sequence[str] | None,
    id_column: str | None,
    token_ids: bool = False,
    prompt_token_ids: bool = False,
    logprobs: bool = False,
    seed_column: str | None = None,
) -> TableLayout:
    """Decide which input columns are read and which travel to the output.

    Args:
        schema: columns of the input, all shards together.
        needed: columns that prompts and per-row options are made of; all of them in the schema.
        carry: columns to write beside the completion; None: all.
        id_column: column that becomes `id`, and so is not carried under its own name if that is `id`.
        seed_column: column with seeds of rows, the same for `seed`.
    Raises:
        ConfigError: a carried column does not exist or has the name of an output column.
    """
    carried = list(schema.names) if carry is None else list(dict.fromkeys(carry))
    missing = [name for name in carried if name not in schema.names]
    if missing:
        raise ConfigError(f"input.carry: no column {', '.join(missing)}; there are {', '.join(schema.names)}")
    own = {"id": id_column, "seed": seed_column}  # these come back as output columns of that name
    carried = [name for name in carried if own.get(name) != name]
    _refuse_collisions(carried)
    read = [*dict.fromkeys([*needed, *([id_column] if id_column else []), *carried])]
    fields = [pa.field(name, stored_type(schema.field(name).type)) for name in carried]
    return TableLayout(pa.schema(fields), tuple(read), token_ids, prompt_token_ids, logprobs)


def _refuse_collisions(carried: Sequence[str]) -> None:
    reserved = {c.name for c in (*IDENTITY, *RESULT, *OPTIONAL)}
    taken = [name for name in carried if name in reserved or name.startswith(HIDDEN)]
    if taken == ["id"]:
        raise ConfigError(
            "input column id has the name of an output column; set input.id_column: id, "
            "or list the columns to keep in input.carry"
        )
    if taken:
        raise ConfigError(
            f"input columns {', '.join(taken)} have names of output columns; "
            "list the columns to keep in input.carry"
        )
