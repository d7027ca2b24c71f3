"""The ladder of budgets: the sizes T that a forward may have, from a lone sequence to a full batch."""

import math
from collections.abc import Mapping, Sequence

FIRST_RUNG = {"cpu": 1}  # SmolLM2-135M: a forward of 1 row takes 0.63 of one of 8
FIRST_ELSEWHERE = 16
RUNGS_PER_DOUBLING = {"cpu": 4}  # rows cost time there; elsewhere one, since every rung is a graph to capture
FINE_FROM = 8  # below it one too: every rung is checked at start-up
MULTIPLE = 16
LARGEST_CHOSEN = {"cpu": 512}  # rows from which a forward's cost only grows in proportion
LARGEST_ELSEWHERE = 4096  # a card's arithmetic is not full before; beyond MOST_CHOOSING for prompts alone
MOST_CHOOSING = 1024  # their logits and what is drawn from them are the largest buffers
SPREAD = 2  # from one rung that is tried to the next, where not all are
PROMPT_SHARE = 0.5  # rows for prompts, per row of a block
SMALLEST_CHOSEN = 64  # room for prompts beside few sequences


def choose_token_budget(*, max_sequences: int, block_size: int, device_type: str) -> int:
    """Return the top rung where the config names none: whole blocks for everybody, and prompts beside them.

    On a card rows of prompts cost less the more there are.

    Args:
        block_size: K.
    """
    if device_type not in LARGEST_CHOSEN:
        return round_up(max(LARGEST_ELSEWHERE, max_sequences))
    wanted = max(max_sequences * (block_size + 1) * (1 + PROMPT_SHARE), SMALLEST_CHOSEN)
    return round_up(max(min(math.ceil(wanted), LARGEST_CHOSEN[device_type]), max_sequences))


def most_choosing(budgets: Sequence[int], *, max_sequences: int, most_drafts: int) -> int:
    """Return the rung that holds all rows that may choose: whole blocks of all, as far as memory is for them.

    Args:
        budgets: ascending.
        most_drafts: of a sequence, 0 for plain AR decoding.
    """
    wanted = max(min(max_sequences * (most_drafts + 1), MOST_CHOOSING), max_sequences)
    return next((budget for budget in budgets if budget >= wanted), budgets[-1])


def candidate_budgets(token_budget: int, device_type: str) -> tuple[int, ...]:
    """Return the rungs to try, ascending, `token_budget` the last."""
    per_doubling = RUNGS_PER_DOUBLING.get(device_type, 1)
    octave = FIRST_RUNG.get(device_type, FIRST_ELSEWHERE)
    rungs: list[int] = []
    while octave < token_budget:
        rungs += range(octave, 2 * octave, octave // per_doubling if octave >= FINE_FROM else octave)
        octave *= 2
    return (*(rung for rung in rungs if rung < token_budget), token_budget)


def spread_out(budgets: Sequence[int], *, beyond: int = 0) -> list[int]:
    """Return the rungs that stand for all: the first, the last, and steps of SPREAD or more between them.

    Args:
        budgets: ascending.
        beyond: all up to this one are taken.
    """
    chosen = [budgets[0]]
    for rung in budgets[1:]:
        if rung <= beyond or rung >= SPREAD * chosen[-1] or rung == budgets[-1]:
            chosen.append(rung)
    return chosen


def seconds_per_row(rungs: Sequence[int], seconds: Mapping[int, float], demands: Sequence[int]) -> float:
    """Return what a row costs on these rungs, the mean over steps of so many rows.

    More rows than the largest rung has take several forwards.

    Args:
        rungs: ascending.
        seconds: of a forward of each rung.
        demands: rows that there are to run, each in a step of its own.
    """
    total = 0.0
    for demand in demands:
        num_full, rest = divmod(demand, rungs[-1])
        taken = num_full * seconds[rungs[-1]]
        if rest:
            taken += min(seconds[rung] for rung in rungs if rung >= rest)
        total += taken / demand
    return total / len(demands)


def round_up(number: int) -> int:
    """Return the next multiple of MULTIPLE."""
    return -(-number // MULTIPLE) * MULTIPLE
