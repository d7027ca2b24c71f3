import numpy as np
import pytest
import torch

from orthrus_core.cache import SCRATCH_PAGE, KVCache, PagePool, PageTables


def test_every_page_but_scratch_is_given_once():
    pool = PagePool(num_pages=4, page_size=2)
    pages = [pool.take() for _ in range(4)]
    assert sorted(pages[:3]) == [1, 2, 3]
    assert pages[3] is None
    assert SCRATCH_PAGE not in pages


def test_a_released_page_is_given_again():
    pool = PagePool(num_pages=2, page_size=2)
    page = pool.take()
    pool.release(page)
    assert pool.take() == page


def test_a_shared_page_is_free_only_after_its_last_release():
    pool = PagePool(num_pages=2, page_size=2)
    page = pool.take()
    pool.share(page)
    pool.release(page)
    assert pool.take() is None
    pool.release(page)
    assert pool.take() == page


def test_releasing_too_often_is_our_own_bug():
    pool = PagePool(num_pages=2, page_size=2)
    page = pool.take()
    pool.release(page)
    with pytest.raises(AssertionError, match="released more often"):
        pool.release(page)


def test_only_full_committed_pages_of_a_prompt_are_matched():
    pool = PagePool(num_pages=6, page_size=2)
    pages = [pool.take() for _ in range(3)]
    pool.index_prefix(pages, [1, 2, 3, 4, 5, 6], num_committed=5)
    assert pool.match_prefix([1, 2, 3, 4, 5, 6]) == pages[:2]


def test_forgotten_prompts_match_nothing_and_their_idle_pages_are_free():
    pool = PagePool(num_pages=4, page_size=2)
    held, idle = pool.take(), pool.take()
    pool.index_prefix([held, idle], [1, 2, 3, 4, 5], num_committed=5)
    pool.release(idle)
    pool.forget_prefixes()
    assert pool.match_prefix([1, 2, 3, 4, 5]) == []
    assert pool.num_available == 2
    pool.release(held)
    assert sorted([pool.take(), pool.take(), pool.take()]) == [1, 2, 3]


def test_the_page_of_the_last_prompt_token_is_never_matched():
    pool = PagePool(num_pages=6, page_size=2)
    pages = [pool.take(), pool.take()]
    pool.index_prefix(pages, [1, 2, 3, 4], num_committed=4)
    assert pool.match_prefix([1, 2, 3, 4]) == pages[:1]
    assert pool.match_prefix([1, 2]) == []


def test_equal_pages_behind_different_beginnings_are_not_confused():
    pool = PagePool(num_pages=8, page_size=2)
    first, second = [pool.take(), pool.take()], [pool.take(), pool.take()]
    pool.index_prefix(first, [1, 1, 9, 9], num_committed=4)
    pool.index_prefix(second, [2, 2, 9, 9], num_committed=4)
    assert pool.match_prefix([2, 2, 9, 9, 0]) == second
    assert pool.match_prefix([3, 3, 9, 9, 0]) == []


def test_idle_pages_stay_matchable_until_they_are_needed():
    pool = PagePool(num_pages=3, page_size=2)
    pages = [pool.take(), pool.take()]
    pool.index_prefix(pages, [1, 2, 3, 4], num_committed=4)
    for page in reversed(pages):
        pool.release(page)
    assert pool.num_available == 2
    assert pool.match_prefix([1, 2, 3, 4, 5]) == pages
    for page in reversed(pages):
        pool.release(page)
    assert pool.take() == pages[1]  # the end of the prefix goes first
    assert pool.match_prefix([1, 2, 3, 4, 5]) == pages[:1]


def test_tables_grow_by_whole_pages_and_stop_when_the_pool_is_empty():
    pool = PagePool(num_pages=3, page_size=4)
    tables = PageTables(pool, num_slots=2, pages_per_sequence=3)
    assert tables.grow(0, 5) == 8
    assert tables.grow(1, 1) == 0
    tables.clear(0)
    assert tables.grow(1, 1) == 4
    assert tables.held(0) == []


def test_cache_bytes_count_keys_and_values_of_all_layers():
    cache = KVCache(
        num_layers=3, key_shape=(2, 2, 2, 8), value_shape=(2, 2, 8, 2), page_size=2, dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert cache.bytes_per_token == 3 * 2 * 2 * 8 * 2


def test_erasing_pages_leaves_the_others():
    cache = KVCache(
        num_layers=2,
        key_shape=(3, 2, 1, 4),
        value_shape=(3, 1, 4, 2),
        page_size=2,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    for tensor in (*cache.keys, *cache.values):
        tensor.fill_(float("nan"))
        tensor[0] = 1.0
    cache.erase([1, 2])
    for tensor in (*cache.keys, *cache.values):
        assert tensor.sum(dim=(1, 2, 3)).tolist() == [8.0, 0.0, 0.0]


def test_a_branch_shares_full_pages_and_begins_with_a_copy_of_the_one_it_parts_in():
    tables = PageTables(PagePool(6, 4), num_slots=2, pages_per_sequence=4, num_branches=2, cells_per_branch=5)
    tables.grow(1, 12)
    first, second, third = tables.held(1)
    lines, copies = tables.branch(np.array([1, 1]), np.array([5, 8]))
    # two pages for 5 cells from the last cell of a page on; those of branches lie behind the pool's
    assert tables.num_pages == 6 + 2 * 2
    assert lines.tolist() == [2, 3]
    assert tables.pages[lines].tolist() == [[first, 6, 7, SCRATCH_PAGE], [first, second, 8, 9]]
    assert copies.tolist() == [[second, third], [6, 8]]
    assert tables.pool.num_available == 2


def test_a_branch_ends_where_a_sequence_does():
    tables = PageTables(PagePool(6, 4), num_slots=1, pages_per_sequence=2, num_branches=1, cells_per_branch=8)
    tables.grow(0, 8)
    lines, _ = tables.branch(np.array([0]), np.array([6]))
    assert tables.pages[lines].tolist() == [[tables.held(0)[0], 6]]
