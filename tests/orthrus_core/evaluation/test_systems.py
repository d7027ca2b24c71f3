import pytest
import torch

from orthrus_core import ConfigError, EngineConfig, SamplingParams
from orthrus_core.engine.step import DiffusionDrafts
from orthrus_core.evaluation import systems
from orthrus_core.evaluation.systems import (
    EngineSystem,
    cut_after,
    generate_batch_system,
    pad_left,
    prompt_lookup_system,
    transformers_system,
)
from tests.small_models import small_orthrus

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18, 19]]
EOS = 2


@pytest.fixture(scope="module")
def model():
    """A model whose completions of these prompts end by themselves at different lengths."""
    return small_orthrus(sameness=0.1, seed=4)


@pytest.fixture(scope="module")
def params(model):
    """Takes as EOS what the third completion says at its sixth place."""
    free = EngineSystem(model, params=SamplingParams(max_new_tokens=24), config=config("autoregressive"))
    return SamplingParams(max_new_tokens=24, eos_token_id=free(PROMPTS)()[2][5])


def config(mode):
    return EngineConfig(mode=mode, token_budget=16, max_sequences=2, max_context=64, self_check=False)


def test_all_systems_emit_the_same_tokens(model, params):
    consensus, ar = (
        EngineSystem(model, params=params, config=config(mode))(PROMPTS)()
        for mode in ("consensus", "autoregressive")
    )
    plain = transformers_system(model, params=params, batch_size=2)(PROMPTS)()
    lookup = prompt_lookup_system(model, params=params)(PROMPTS)()
    continuous = generate_batch_system(model, params=params, batch_size=3)(PROMPTS)()
    assert consensus == ar == plain == lookup == continuous
    assert len({len(row) for row in plain}) > 1
    assert min(map(len, plain)) < 24


def test_the_eos_that_ends_a_row_counts_and_padding_does_not(model, params):
    rows = transformers_system(model, params=params, batch_size=5)(PROMPTS)()
    for row in rows:
        assert params.eos_token_id not in row[:-1]
        assert row[-1] == params.eos_token_id or len(row) == 24


def test_transformers_takes_the_eos_of_the_model(params):
    model = small_orthrus(sameness=0.1, seed=4, eos_token_id=params.eos_token_id)
    own = transformers_system(model, params=SamplingParams(max_new_tokens=24), batch_size=5)(PROMPTS)()
    given = transformers_system(model, params=params, batch_size=5)(PROMPTS)()
    assert own == given


def test_one_engine_serves_all_rounds_and_forgets_their_prompts(model, params):
    system = EngineSystem(model, params=params, config=config("consensus"))
    long_prompt = [list(range(40))]
    first = system(long_prompt)()
    engine = system.engine
    assert system(long_prompt)() == first
    assert system.engine is engine
    assert engine.report()["prefix_tokens"] == 0


def test_the_engine_drafts_as_told(model, params):
    calls = []

    class Counted(DiffusionDrafts):
        def propose(self, *args):
            calls.append(args)
            return super().propose(*args)

    EngineSystem(model, params=params, config=config("consensus"), make_draft=Counted)(PROMPTS)()
    assert calls


def test_padding_goes_to_the_left():
    input_ids, mask = pad_left([[4, 5, 6], [7]], torch.device("cpu"))
    assert input_ids.tolist() == [[4, 5, 6], [0, 0, 7]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [([5, 2, 2, 2], [5, 2]), ([5, 6, 7], [5, 6, 7]), ([3, 2], [3]), ([], [])],
)
def test_a_row_is_cut_after_its_first_stop_id(ids, expected):
    assert cut_after(ids, {2, 3}) == expected


def test_sampling_is_not_timed_against_transformers(model):
    with pytest.raises(ConfigError, match="needs sampling.temperature 0"):
        transformers_system(model, params=SamplingParams(temperature=0.5), batch_size=1)


def test_prompt_lookup_looks_tokens_up(model, params, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "generate", lambda ids, **options: seen.append(options) or ids)
    prompt_lookup_system(model, params=params)([[5, 6]])()
    assert seen[0]["prompt_lookup_num_tokens"] == systems.LOOKUP_TOKENS


def test_requests_that_generate_batch_loses_are_no_result(model, params, monkeypatch):
    monkeypatch.setattr(model, "generate_batch", lambda *args, **options: {})
    with pytest.raises(AssertionError, match="lost requests"):
        generate_batch_system(model, params=params, batch_size=2)(PROMPTS)()


@pytest.mark.parametrize("rule", [{"ignore_eos": True}, {"stop_token_ids": (5,)}])
def test_stop_rules_that_transformers_lacks_are_refused(model, rule):
    with pytest.raises(ConfigError, match="without ignore_eos and stop_token_ids"):
        transformers_system(model, params=SamplingParams(**rule), batch_size=1)
