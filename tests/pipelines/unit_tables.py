"""Tables as the stages of the generate job hand them on."""

import json

import pyarrow as pa

from pipelines.read.columns import (
    PARAMS,
    PLACE,
    PREFILL,
    PROMPT_IDS,
    PROMPT_TOKENS,
    ROW_ERROR,
    SAMPLES,
    SHARD,
    TRUNCATED,
    UNIT,
)


def unit(prompts, errors=None, limits=None, index=0, params=None, samples=None, prefills=None) -> pa.Table:
    """A table as `render_unit` makes it.

    Args:
        params: own options of each row; none: a limit of 9 tokens or that of `limits`.
        samples: numbers of the completions of each row; none: one.
        prefills: what stands before completions; none: nothing.
    """
    count = len(prompts)
    params = params or [{"max_new_tokens": limit or 9} for limit in limits or [9] * count]
    return pa.table(
        {
            "id": [f"r{i}" for i in range(count)],
            "note": ["n"] * count,
            SHARD: pa.array([1] * count, pa.int32()),
            UNIT: pa.array([index] * count, pa.int32()),
            ROW_ERROR: pa.array(errors or [None] * count, pa.string()),
            PROMPT_IDS: pa.array(prompts, pa.list_(pa.int32())),
            PLACE: pa.array(range(count), pa.int32()),
            PROMPT_TOKENS: pa.array([0] * count, pa.int32()),
            TRUNCATED: pa.array([0] * count, pa.int32()),
            PREFILL: pa.array(prefills or [None] * count, pa.string()),
            PARAMS: pa.array([json.dumps(own) for own in params], pa.string()),
            SAMPLES: pa.array(samples or [[0]] * count, pa.list_(pa.int32())),
        }
    )
