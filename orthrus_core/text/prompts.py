"""What callers of `Engine.generate` write and read: text and messages beside token ids."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orthrus_core.engine.sequence import Completion
from orthrus_core.errors import ConfigError
from orthrus_core.request import Request, SamplingParams
from orthrus_core.text.stop_strings import cut_text

Prompt = str | Sequence[Mapping[str, Any]] | Sequence[int]  # text, messages or token ids


def new_requests(
    prompts: Iterable[Prompt],
    params: SamplingParams | Sequence[SamplingParams] | None,
    *,
    num_samples: int,
    tokenizer: Any | None,
) -> list[Request]:
    """Return what `Engine.generate` is asked for, all samples of a prompt side by side.

    Raises:
        ConfigError: prompts or params of another kind or number.
    """
    ids = [_ids_of(prompt, number, tokenizer) for number, prompt in enumerate(_several(prompts))]
    if params is None or isinstance(params, SamplingParams):
        params = [params or SamplingParams()] * len(ids)
    given: list[Any] = [*params] if isinstance(params, list | tuple) else [params]
    if others := [type(one).__name__ for one in given if not isinstance(one, SamplingParams)]:
        raise ConfigError(f"generate takes SamplingParams, one or as many as prompts, got {others[0]}")
    if len(given) != len(ids):
        raise ConfigError(f"got {len(ids)} prompts but {len(given)} sampling params")
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ConfigError(f"num_samples must be a whole number >= 1, got {num_samples!r}")
    return [
        Request(prompt, one, sample=sample)
        for prompt, one in zip(ids, given, strict=True)
        for sample in range(num_samples)
    ]


def with_text(completion: Completion, request: Request, tokenizer: Any | None) -> Completion:
    """Return a completion with its text, where there is a tokenizer and no error."""
    if tokenizer is None or completion.error is not None:
        return completion
    text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    text = cut_text(text, completion.stop_string, include=request.params.include_stop_str)
    return replace(completion, text=text)


def _several(prompts: Any) -> list[Any]:
    """Return the prompts, unless they are a single one."""
    if isinstance(prompts, str | bytes | Mapping) or not hasattr(prompts, "__iter__"):
        what = "; pass its input_ids" if isinstance(prompts, Mapping) else ""
        what = f": pass [{prompts[:20]!r}]" if isinstance(prompts, str | bytes) else what
        raise ConfigError(f"generate takes a list of prompts, got a {type(prompts).__name__}{what}")
    prompts = prompts.tolist() if hasattr(prompts, "tolist") else list(prompts)
    if prompts and all(isinstance(one, int) for one in prompts):
        raise ConfigError(f"generate takes a list of prompts, got one prompt's ids: pass [{prompts[:3]}]")
    if prompts and all(isinstance(one, Mapping) and "role" in one for one in prompts):
        raise ConfigError("generate takes a list of prompts, got one prompt's messages: pass [messages]")
    return prompts


def _ids_of(prompt: Any, number: int, tokenizer: Any | None) -> list[int]:
    if isinstance(prompt, str):
        return _encoded(prompt, number, tokenizer)
    if isinstance(prompt, Mapping | bytes) or not hasattr(prompt, "__iter__"):
        raise ConfigError(
            f"prompt {number} must be text, messages or a list of token ids, got {type(prompt).__name__}"
            f"{': pass its input_ids' if isinstance(prompt, Mapping) else ''}"
        )
    parts = prompt.tolist() if hasattr(prompt, "tolist") else list(prompt)
    if parts and all(isinstance(part, Mapping) for part in parts):
        return _rendered(parts, number, tokenizer)
    try:
        if any(isinstance(part, bool) for part in parts):
            raise TypeError
        return [operator.index(part) for part in parts]
    except TypeError:
        kinds = sorted({type(part).__name__ for part in parts})
        raise ConfigError(
            f"prompt {number} must be text, messages or a list of token ids, got a list of {', '.join(kinds)}"
        ) from None


def _encoded(text: str, number: int, tokenizer: Any | None) -> list[int]:
    encode = _method(tokenizer, "encode", f"prompt {number} is text")
    bos = getattr(tokenizer, "bos_token", None) or ""
    has_specials = bos != "" and text.startswith(bos)  # it comes from a chat template
    try:
        return list(encode(text, add_special_tokens=not has_specials))
    except (UnicodeEncodeError, TypeError) as error:
        raise ConfigError(f"prompt {number} has text that cannot be encoded as UTF-8") from error


def _rendered(messages: list[Mapping[str, Any]], number: int, tokenizer: Any | None) -> list[int]:
    render = _method(tokenizer, "apply_chat_template", f"prompt {number} consists of messages")
    is_begun = messages[-1].get("role") == "assistant"
    turn = {"add_generation_prompt": not is_begun, "continue_final_message": is_begun}
    try:
        return list(render(messages, return_dict=False, **turn))
    except Exception as error:  # templates raise what they like
        reason = " ".join(str(error).split())
        raise ConfigError(f"prompt {number}: the chat template fails: {reason:.200}") from error


def _method(tokenizer: Any | None, name: str, what: str) -> Any:
    if not hasattr(tokenizer, name):
        raise ConfigError(
            f"{what}, and the engine has no tokenizer with {name}: pass Engine(model, config, tokenizer=...)"
        )
    return getattr(tokenizer, name)
