"""Grammars that would take minutes and gigabytes: refused, soon, and the next one goes on."""

import json

import pytest

from orthrus_core.choosers.grammar_trial import GrammarTrial, GrammarTrialError

pytestmark = pytest.mark.timeout(90)  # a machine with other work may take seconds to start a process


def in_the_library_s_language(schema) -> str:
    return f"start: %json {json.dumps(schema)}"


HUGE = in_the_library_s_language({"type": "integer", "multipleOf": 9999991})


def test_a_grammar_that_takes_too_long_is_ended_and_the_next_one_goes_on():
    trial = GrammarTrial(limit_s=0.2)
    with pytest.raises(GrammarTrialError, match=r"takes more than 0.2 s to compile"):
        trial.run(HUGE)
    trial.run(in_the_library_s_language({"type": "integer"}))


def test_a_grammar_that_needs_too_much_memory_is_ended():
    with pytest.raises(GrammarTrialError, match="takes more than 16 MiB to compile"):
        GrammarTrial(memory_bytes=2**24).run(HUGE)


def test_what_the_library_refuses_is_not_the_trial_s_business():
    GrammarTrial().run(in_the_library_s_language({"not": {}}))
