from orthrus_core.engine.stop import cut_at_stop


def cut(new_ids, stop_ids=frozenset(), length_left=99, context_left=99):
    return cut_at_stop(new_ids, stop_ids=stop_ids, length_left=length_left, context_left=context_left)


def test_nothing_holds():
    assert cut([4, 5, 6]) == ([4, 5, 6], None)


def test_an_eos_inside_the_block_is_emitted_and_what_follows_is_cut():
    assert cut([4, 2, 6], stop_ids=frozenset({2})) == ([4, 2], "stop")


def test_any_of_several_stop_ids_ends():
    assert cut([4, 5, 6], stop_ids=frozenset({9, 5, 6})) == ([4, 5], "stop")


def test_length_cuts_where_ar_would_have_stopped():
    assert cut([4, 5, 6], length_left=2) == ([4, 5], "length")


def test_context_cuts_and_length_names_the_reason_on_a_tie():
    assert cut([4, 5, 6], context_left=2) == ([4, 5], "context")
    assert cut([4, 5, 6], length_left=2, context_left=2) == ([4, 5], "length")


def test_an_eos_at_the_last_allowed_token_counts_as_stop():
    assert cut([4, 2, 6], stop_ids=frozenset({2}), length_left=2) == ([4, 2], "stop")
