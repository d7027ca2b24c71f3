"""Names, types and meanings of the columns that go in, travel between stages and come out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

# Columns that travel between the stages of the dataset and are never written.
HIDDEN = "__orthrus_"
SHARD = HIDDEN + "shard"  # int32, number of the unit's first input file
UNIT = HIDDEN + "unit"  # int32, number of the unit within its shard
FILE = HIDDEN + "file"  # int32, number of the row's own input file
ROW = HIDDEN + "row"  # int64, row within its file
ROW_ERROR = HIDDEN + "error"  # string, why this row cannot be generated; null: it can
PROMPT_IDS = HIDDEN + "prompt_ids"  # list<int32>
PLACE = HIDDEN + "place"  # int32, row within its unit, from 0
PARAMS = HIDDEN + "params"  # string, json of sampling options that replace the config's for this row
SAMPLES = HIDDEN + "samples"  # list<int32>, numbers of the completions to make
TRUNCATED = HIDDEN + "truncated"  # int32, tokens cut from the prompt
PROMPT_TOKENS = HIDDEN + "prompt_tokens"  # int32, of a prompt that was counted and cannot be run; else 0
PREFILL = HIDDEN + "prefill"  # string, what stands before the completion in its column; null: nothing
PROMPT = HIDDEN + "prompt"  # binary, the pickled prompt without its ids, for the turns after it; null: none
CARRIED = HIDDEN + "carried_"  # before the name of a carried column that an output column has too
ENGINE = HIDDEN + "engine"  # string, json of the engine's figures on a unit's first row
LINE = HIDDEN + "line"  # large_binary, of JSON: the row as it stands in file and path; null: it is none
# + name, of Parquet: a column in its file's own type, where that is not the one of all files; or what
# input.map made, of JSON too
OWN = HIDDEN + "own_"

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
    Column(
        "prompt_tokens",
        pa.int32(),
        "tokens of the prompt after the chat template; 0 on an error that came before they were counted",
    ),
    Column("truncated_tokens", pa.int32(), "tokens that input.prompt.overlong cut from the prompt; 0: none"),
    Column(
        "cached_tokens",
        pa.int32(),
        "tokens of the prompt that an earlier prompt, or turn, had left in the cache",
    ),
    Column("completion_tokens", pa.int32(), "tokens emitted, the final end token included"),
    Column("steps", pa.int32(), "engine steps that carried this row"),
    Column("step_tokens", pa.int32(), "tokens that those steps emitted; the end of a prefill emits one more"),
    Column("forwards", pa.int32(), "draft and verify passes that carried this row"),
    Column("drafted", pa.int32(), "draft tokens proposed"),
    Column("accepted", pa.int32(), "draft tokens accepted and emitted"),
    Column("lookup_drafted", pa.int32(), "those of the proposed ones that were looked up in earlier text"),
    Column("lookup_accepted", pa.int32(), "those of them that were accepted and emitted"),
    Column("acceptance_length", pa.float32(), "tokens emitted per step; plain AR has 1.0"),
    Column("tokens_per_forward", pa.float32(), "tokens emitted per draft or verify pass (TPF)"),
    Column("min_logit_gap", pa.float32(), "smallest gap between the two best logits of any emitted token"),
    Column("mean_logprob", pa.float32(), "mean log-probability of the emitted tokens"),
    Column(
        "exactness",
        pa.string(),
        "exact: same tokens as AR decoding, checked at start-up; distribution: as likely as in AR decoding "
        "(decode.consensus rejection); or unverified; null on error",
    ),
    Column("seed", pa.int64(), "seed of this row: its own or the config's"),
)
LOGPROBS = Column("logprobs", pa.list_(pa.float32()), "log-probability of each of the completion's tokens")
TOP_LOGPROBS = Column(
    "top_logprobs",
    pa.list_(pa.list_(pa.struct([("id", pa.int32()), ("logprob", pa.float32())]))),
    "the likeliest tokens at the place of each of the completion's tokens, the likeliest first",
)
PROMPT_LOGPROBS = Column(
    "prompt_logprobs",
    pa.list_(pa.float32()),
    "log-probability of each of the prompt's tokens; the first has none",
)
PROMPT_PERPLEXITY = Column(
    "prompt_perplexity", pa.float64(), "e to the mean of these with its sign turned; null for a single token"
)
COMPLETIONS = Column(
    "completions",
    pa.list_(
        pa.struct(
            [
                ("text", pa.string()),
                ("finish_reason", pa.string()),
                ("prompt_tokens", pa.int32()),
                ("truncated_tokens", pa.int32()),
                ("cached_tokens", pa.int32()),
                ("completion_tokens", pa.int32()),
                ("token_ids", pa.list_(pa.int32())),
                ("logprobs", LOGPROBS.type),
                ("top_logprobs", TOP_LOGPROBS.type),
            ]
        )
    ),
    "with input.prompt.turns: every answer that was made, the last one too; its ids and log-probabilities "
    "where such columns are asked for",
)
TOKEN_IDS = Column("token_ids", pa.list_(pa.int32()), "ids of the completion's tokens, end token included")
PROMPT_TOKEN_IDS = Column("prompt_token_ids", pa.list_(pa.int32()), "ids of the prompt's tokens")
DROPPED_REASON = Column(
    "dropped_reason", pa.string(), "in dropped/ only: the filter that the row failed first, and its value"
)
# By the flags of a `TableLayout`.
ON_REQUEST = (
    COMPLETIONS,
    LOGPROBS,
    TOP_LOGPROBS,
    PROMPT_LOGPROBS,
    PROMPT_PERPLEXITY,
    TOKEN_IDS,
    PROMPT_TOKEN_IDS,
)
OPTIONAL = (*ON_REQUEST, DROPPED_REASON)

STEP_COUNTERS = (
    "steps",
    "step_tokens",
    "forwards",
    "drafted",
    "accepted",
    "lookup_drafted",
    "lookup_accepted",
)
# Of how a row was decoded, not of what it says; output.diagnostics false leaves them out.
DIAGNOSTICS = (
    "cached_tokens",
    *STEP_COUNTERS,
    "acceptance_length",
    "tokens_per_forward",
    "min_logit_gap",
    "mean_logprob",
)
NAMES = tuple(column.name for column in (*IDENTITY, *RESULT, *OPTIONAL))
COUNTERS = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    *STEP_COUNTERS,
)


@dataclass(frozen=True)
class TableLayout:
    """Which columns one run reads, carries and writes.

    Between the stages, output columns have their own names, whatever `rename` makes of them in the files; a
    carried column that has such a name goes by `within` there.

    Attributes:
        carried: carried input columns with the types they have in every output file.
        read: input columns that are read, carried or not.
        completions, token_ids, prompt_token_ids, logprobs, top_logprobs, diagnostics: whether these columns
            are written.
        prompt_logprobs: whether these and the perplexity are.
        rename: output columns that have another name in the files.
        made: columns that output.map makes; null until it has.
    """

    carried: pa.Schema
    read: tuple[str, ...]
    completions: bool = False
    token_ids: bool = False
    prompt_token_ids: bool = False
    logprobs: bool = False
    top_logprobs: bool = False
    prompt_logprobs: bool = False
    diagnostics: bool = True
    rename: Mapping[str, str] = field(default_factory=dict)
    made: pa.Schema = pa.schema([])

    @property
    def prompt_perplexity(self) -> bool:
        """Whether it is written."""
        return self.prompt_logprobs

    @staticmethod
    def within(name: str) -> str:
        """A carried column's name between the stages."""
        return CARRIED + name if name in NAMES else name

    @property
    def output(self) -> pa.Schema:
        """All columns between the stages, in the order of the files."""
        result = [*RESULT, *(one for one in ON_REQUEST if getattr(self, one.name))]
        fields = [pa.field(c.name, c.type) for c in IDENTITY]
        fields += [one.with_name(self.within(one.name)) for one in self.carried]
        fields += [pa.field(c.name, c.type) for c in result]
        return pa.schema([*fields, *self.made])

    @property
    def written(self) -> pa.Schema:
        """Schema of every output file."""
        return pa.schema(
            [self.output.field(name).with_name(written) for name, written in self.file_names.items()]
        )

    @property
    def dropped(self) -> pa.Schema:
        """Schema of every side file of dropped rows."""
        return self.written.append(pa.field(self.dropped_reason, DROPPED_REASON.type))

    @property
    def dropped_reason(self) -> str:
        """The name of that column in the side files."""
        return self.rename.get(DROPPED_REASON.name, DROPPED_REASON.name)

    @property
    def file_names(self) -> dict[str, str]:
        """Of each column that is written, its name between the stages to that in the files."""
        return {
            name: self.rename.get(name, name.removeprefix(CARRIED))
            for name in self.output.names
            if self.diagnostics or name not in DIAGNOSTICS
        }

    def to_file(self, table: pa.Table) -> pa.Table:
        """The columns of a table of `output`, as the files have them."""
        return table.select([*self.file_names]).rename_columns([*self.file_names.values()])

    def from_file(self, table: pa.Table) -> pa.Table:
        """A table read from a file as one of `output`; columns that it lacks are null."""
        names, count = self.file_names, table.num_rows
        return pa.table(
            {
                one.name: (
                    table.column(names[one.name])
                    if names.get(one.name) in table.column_names
                    else pa.nulls(count, one.type)
                )
                for one in self.output
            }
        )
