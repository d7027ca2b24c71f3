import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, TextStreamer

from orthrus_core.errors import ConfigError, RequestError
from tests.orthrus_core.models.greedy import PAD, engine_equals_transformers, prompts, some_emitted
from tests.small_models import small_backbone, small_orthrus
from tests.tokenizers import ByteTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")

SHAPES = [
    {"seed": 0},
    {"seed": 1, "tied": False, "head_dim": 12, "num_layers": 3},
    {"seed": 2, "sameness": 0.2, "block_size": 3},
    {"seed": 3, "sameness": 0.3, "attention_bias": True, "block_size": 16},
]


class FakeStreamer:
    """Collects what a streamer gets."""

    def __init__(self):
        self.puts: list[Tensor] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.puts.append(value)

    def end(self) -> None:
        self.ended += 1


class ScaledByTheBatch(torch.nn.Module):
    """Rounds its input to steps that depend on all rows."""

    def __init__(self, inner: torch.nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        step = x.abs().max() / 127
        return self.inner((x / step).round() * step)


# The same tokens by three ways


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 17])
def test_a_single_prompt_gets_the_tokens_of_transformers(shape, length):
    input_ids, _ = prompts(length)
    out = engine_equals_transformers(small_orthrus(**shape), input_ids, max_new_tokens=21)
    assert out.shape == (1, length + 21)
    assert torch.equal(out[:, :length], input_ids)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_left_padded_batch_gets_the_tokens_of_transformers(shape):
    input_ids, mask = prompts(3, 11, 1, 20, 7)
    engine_equals_transformers(small_orthrus(**shape), input_ids, attention_mask=mask, max_new_tokens=13)


def test_the_tokens_are_those_of_the_backbone():
    input_ids, mask = prompts(3, 11)
    options = {"attention_mask": mask, "max_new_tokens": 19}
    expected = small_backbone().generate(input_ids, do_sample=False, **options)
    assert torch.equal(small_orthrus().generate(input_ids, use_diffusion_mode=True, **options), expected)


def test_in_bfloat16_both_modes_give_the_same_tokens():
    input_ids, mask = prompts(3, 11, 6)
    model = small_orthrus(dtype=torch.bfloat16, sameness=0.2)
    options = {"attention_mask": mask, "max_new_tokens": 40}
    consensus, ar = (model.generate(input_ids, use_diffusion_mode=mode, **options) for mode in (True, False))
    assert torch.equal(consensus, ar)


def test_more_prompts_than_the_engine_runs_at_once_come_back_in_order():
    input_ids, mask = prompts(*(1 + n % 5 for n in range(37)))
    engine_equals_transformers(small_orthrus(), input_ids, attention_mask=mask, max_new_tokens=5)


@pytest.mark.parametrize(
    "budget", [{"token_budget": 16}, {"block_size": 2}, {"token_budget": 40, "block_size": 7}]
)
def test_budget_and_block_size_do_not_change_the_tokens(budget):
    input_ids, _ = prompts(9)
    model = small_orthrus(sameness=0.2)
    expected = model.generate(input_ids, do_sample=False, max_new_tokens=30)
    out = model.generate(input_ids, use_diffusion_mode=True, max_new_tokens=30, **budget)
    assert torch.equal(out, expected)


def test_prompts_may_be_passed_by_the_name_input_ids():
    input_ids, mask = prompts(4, 9)
    model = small_orthrus()
    inputs = {"input_ids": input_ids, "attention_mask": mask, "max_new_tokens": 6}
    expected = model.generate(do_sample=False, **inputs)
    assert torch.equal(model.generate(use_diffusion_mode=True, **inputs), expected)


def test_a_model_whose_rows_depend_on_their_neighbours_is_warned_of_once(caplog):
    input_ids, _ = prompts(9)
    model = small_orthrus()
    options = {"use_diffusion_mode": True, "max_new_tokens": 3}
    model.generate(input_ids, **options)
    assert "exactness" not in caplog.text
    model.model.layers[0].mlp = ScaledByTheBatch(model.model.layers[0].mlp)  # as dynamic quantisation does
    model.generate(input_ids, **options)
    model.generate(input_ids, **options)
    assert caplog.text.count("exactness=unverified: token rows differ in bits") == 1


def test_without_a_compiled_kernel_the_engine_checks_itself(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    input_ids, mask = prompts(9, 4)
    engine_equals_transformers(small_orthrus(), input_ids, attention_mask=mask, max_new_tokens=9)


def test_under_autocast_nothing_is_generated():
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match=r"leave torch\.autocast"):
        small_orthrus().generate(prompts(8)[0], use_diffusion_mode=True)


# Stopping and padding


def test_a_batch_is_padded_after_the_eos_of_each_row():
    input_ids, mask = prompts(8, 3, 5)
    model = small_orthrus()
    eos = some_emitted(model, input_ids, 4)
    options = {"attention_mask": mask, "eos_token_id": eos, "pad_token_id": PAD}
    out = engine_equals_transformers(model, input_ids, max_new_tokens=21, **options)
    assert out[0, 8 + 4] == eos
    assert (out[0, 8 + 5 :] == PAD).all()
    assert out.shape[1] > 8 + 5


def test_the_output_is_as_wide_as_the_longest_completion():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    eos = some_emitted(model, input_ids, 4)
    out = engine_equals_transformers(model, input_ids, eos_token_id=eos, pad_token_id=PAD, max_new_tokens=21)
    assert out.shape == (1, 8 + 5)


def test_without_a_pad_token_rows_are_padded_with_the_first_eos():
    input_ids, mask = prompts(8, 3, 5)
    model = small_orthrus()
    eos = [some_emitted(model, input_ids, 5), some_emitted(model, input_ids, 4)]
    out = engine_equals_transformers(
        model, input_ids, attention_mask=mask, eos_token_id=eos, max_new_tokens=21
    )
    assert out[0, -1] == eos[0]


def test_eos_ids_of_the_generation_config_stop_a_row():
    input_ids, mask = prompts(8, 3)
    model = small_orthrus()
    model.generation_config.eos_token_id = [96, some_emitted(model, input_ids, 4)]
    model.generation_config.pad_token_id = PAD
    engine_equals_transformers(model, input_ids, attention_mask=mask, max_new_tokens=9)


def test_eos_given_to_generate_replaces_that_of_the_generation_config():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    model.generation_config.eos_token_id = some_emitted(model, input_ids, 4)
    eos = next(n for n in range(97) if n not in model.generate(input_ids, do_sample=False, max_new_tokens=20))
    out = engine_equals_transformers(model, input_ids, eos_token_id=eos, max_new_tokens=9)
    assert out.shape[1] == 8 + 9


def test_leading_pad_tokens_are_padding_where_no_mask_is_given():
    input_ids, mask = prompts(8, 3)
    model = small_orthrus()
    options = {"pad_token_id": PAD, "max_new_tokens": 9}
    out = engine_equals_transformers(model, input_ids, **options)
    assert torch.equal(out, model.generate(input_ids, attention_mask=mask, do_sample=False, **options))


def test_leading_pad_tokens_that_are_an_eos_too_are_text_where_no_mask_is_given():
    input_ids, mask = prompts(8, 3)
    model = small_orthrus()
    options = {"pad_token_id": PAD, "eos_token_id": [PAD, 96], "max_new_tokens": 9}
    engine_equals_transformers(model, input_ids, **options)


# Lengths


def test_max_length_counts_the_padded_prompt():
    input_ids, mask = prompts(8, 3)
    out = engine_equals_transformers(small_orthrus(), input_ids, attention_mask=mask, max_length=20)
    assert out.shape[1] == 20


def test_max_new_tokens_wins_over_max_length():
    input_ids, _ = prompts(8)
    out = engine_equals_transformers(small_orthrus(), input_ids, max_length=50, max_new_tokens=3)
    assert out.shape[1] == 8 + 3


def test_without_a_length_20_tokens_are_generated():
    input_ids, _ = prompts(8)
    assert engine_equals_transformers(small_orthrus(), input_ids).shape[1] == 8 + 20


@pytest.mark.parametrize("fields", [{"max_new_tokens": 6}, {"max_length": 14}])
def test_a_length_of_the_models_generation_config_is_used_as_transformers_does(fields):
    input_ids, _ = prompts(8)
    model = small_orthrus()
    model.generation_config.update(**fields)
    assert engine_equals_transformers(model, input_ids).shape[1] == 8 + 6


def test_the_default_length_ends_at_the_last_position_of_the_model():
    input_ids, _ = prompts(8)
    model = small_orthrus(max_position_embeddings=13)
    assert engine_equals_transformers(model, input_ids).shape[1] == 13


def test_a_max_length_below_the_prompt_is_refused():
    with pytest.raises(ConfigError, match="max_length must be greater than the prompt's 8 tokens, got 8"):
        small_orthrus().generate(prompts(8)[0], use_diffusion_mode=True, max_length=8)


# Prompts that cannot run


def test_right_padding_is_refused():
    mask = torch.tensor([[1, 1, 1, 0]])
    with pytest.raises(ConfigError, match="padded on the left: set tokenizer.padding_side = 'left'"):
        small_orthrus().generate(prompts(4)[0], attention_mask=mask, use_diffusion_mode=True)


@pytest.mark.parametrize("input_ids", [None, torch.tensor([1, 2]), torch.zeros(1, 0, dtype=torch.long)])
def test_input_ids_that_are_no_batch_of_prompts_are_refused(input_ids):
    with pytest.raises(ConfigError, match="needs input_ids of shape"):
        small_orthrus().generate(input_ids, use_diffusion_mode=True)


def test_a_prompt_that_is_all_padding_is_named():
    input_ids, mask = prompts(4, 4)
    mask[1] = 0
    with pytest.raises(RequestError, match="prompt 1: prompt is empty"):
        small_orthrus().generate(input_ids, attention_mask=mask, use_diffusion_mode=True)


def test_a_token_outside_the_vocabulary_is_named():
    with pytest.raises(RequestError, match="prompt 0: prompt token 1 is 97"):
        small_orthrus().generate(torch.tensor([[3, 97]]), use_diffusion_mode=True)


# Streamers


@pytest.mark.parametrize("mode", [True, False])
def test_a_streamer_gets_the_prompt_and_exactly_the_tokens(mode):
    input_ids, _ = prompts(8)
    model = small_orthrus(sameness=0.2)
    streamer = FakeStreamer()
    out = model.generate(input_ids, use_diffusion_mode=mode, max_new_tokens=25, streamer=streamer)
    assert torch.equal(streamer.puts[0], input_ids)
    assert torch.equal(torch.cat(streamer.puts[1:]), out[0, 8:])
    assert streamer.ended == 1
    assert (len(streamer.puts) < 1 + 25) == mode


def test_a_streamer_gets_nothing_after_the_eos():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    eos = some_emitted(model, input_ids, 4)
    streamer = FakeStreamer()
    model.generate(input_ids, use_diffusion_mode=True, eos_token_id=eos, streamer=streamer)
    tokens = torch.cat(streamer.puts[1:]).tolist()
    assert len(tokens) == 5
    assert tokens[-1] == eos


def test_a_text_streamer_prints_what_transformers_makes_it_print(capsys):
    vocabulary = {f"w{n}": n for n in range(97)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "w0")))
    input_ids, _ = prompts(8)
    model = small_orthrus(sameness=0.2)
    printed = []
    for options in ({"do_sample": False}, {"use_diffusion_mode": True}):
        model.generate(input_ids, streamer=TextStreamer(tokenizer, skip_prompt=True), **options)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].split() == [f"w{n}" for n in model.generate(input_ids, do_sample=False)[0, 8:]]


def test_a_streamer_for_a_batch_is_refused():
    with pytest.raises(ConfigError, match="a streamer takes one prompt, got a batch of 2"):
        small_orthrus().generate(prompts(4, 4)[0], use_diffusion_mode=True, streamer=FakeStreamer())


# Stop strings


@pytest.mark.parametrize("use_diffusion_mode", [True, False])
def test_stop_strings_end_each_completion_where_its_text_first_contains_one(use_diffusion_mode):
    input_ids, mask = prompts(8, 5)
    model = small_orthrus(sameness=0.2)
    options = {"attention_mask": mask, "max_new_tokens": 20, "pad_token_id": PAD}
    free = model.generate(input_ids, do_sample=False, **options)[:, 8:].tolist()
    letters = ByteTokenizer.of_letters(97)
    stop = letters.decode(free[0])[6:8]
    out = model.generate(
        input_ids,
        use_diffusion_mode=use_diffusion_mode,
        stop_strings=[stop],
        tokenizer=letters,
        **options,
    )[:, 8:].tolist()
    ends = [text.find(stop) + 2 if stop in text else 20 for text in map(letters.decode, free)]
    expected = [ids[:end] + [PAD] * (max(ends) - end) for ids, end in zip(free, ends, strict=True)]
    assert out == expected


# Without use_diffusion_mode


def test_without_use_diffusion_mode_transformers_generates_with_all_its_options():
    input_ids, mask = prompts(8, 3)
    options = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 6, "return_dict_in_generate": True}
    ours, theirs = (model.generate(input_ids, **options) for model in (small_orthrus(), small_backbone()))
    assert torch.equal(ours.sequences, theirs.sequences)


def test_without_use_diffusion_mode_prompts_may_be_passed_by_the_name_inputs():
    input_ids, _ = prompts(8)
    model = small_orthrus()
    out = model.generate(inputs=input_ids, generation_config=GenerationConfig(max_new_tokens=3))
    assert out.shape == (1, 11)


def test_positional_options_are_refused_with_use_diffusion_mode():
    with pytest.raises(ConfigError, match="by keyword"):
        small_orthrus().generate(prompts(8)[0], GenerationConfig(), use_diffusion_mode=True)
