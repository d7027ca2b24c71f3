"""Options of other engines: what they are called here, or why they are not there."""

from collections.abc import Iterable

NAMES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "min_new_tokens": "min_tokens",
    "min_length": "min_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "stop_words": "stop",
    "include_stop_str_in_output": "include_stop_str",
    "num_return_sequences": "n",
    "num_samples": "n",
    "best_of": "n",
    "random_seed": "seed",
    "do_sample": "temperature",
    "top_logprobs": "logprobs",
    "num_logprobs": "logprobs",
    "bad_words_ids": "bad_words",
    "sequence_bias": "logit_bias",
    "suppress_tokens": "bad_words",
    "guided_json": "json_schema",
    "response_format": "json_schema",
    "structured_outputs": "json_schema",
    "guided_regex": "regex",
    "guided_choice": "choices",
}
_BEAMS = (
    "there is no beam search: a step verifies one continuation of a text, and the accept rule has no exact "
    "form for several ranked by their total; draw n completions and keep that of the best mean_logprob"
)
_CALLBACKS = (
    "there are no callbacks on logits: they wait for the host at every token, and need not come out the "
    "same for a draft or after a restart; there are logit_bias, bad_words, allowed_token_ids, penalties, "
    "json_schema, regex and choices"
)
REASONS = dict.fromkeys(
    (
        *("num_beams", "beam_width", "use_beam_search", "beam_search", "num_beam_groups", "length_penalty"),
        *("early_stopping", "diversity_penalty", "constraints", "force_words_ids"),
    ),
    _BEAMS,
) | dict.fromkeys(
    ("logits_processor", "logits_processors", "logits_warper", "prefix_allowed_tokens_fn"), _CALLBACKS
)


def refuse_foreign(names: Iterable[str]) -> None:
    """Raise ValueError for the first name that is another engine's: what to write, or why it is missing."""
    for name in sorted(names):
        if name in NAMES:
            raise ValueError(f"has no {name}, did you mean {NAMES[name]}?")
        if name in REASONS:
            raise ValueError(f"has no {name}: {REASONS[name]}")
