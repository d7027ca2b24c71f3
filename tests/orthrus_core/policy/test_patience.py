"""How often drafts are looked for."""

from orthrus_core.policy.patience import FIRST_LOOKS, MOST_RARELY, RARELY, Patience


def looks(patience: Patience, steps: range, *, saved_s: float) -> list[int]:
    """Return the steps in which it looked, each look taking a second."""
    found = []
    for step in steps:
        if patience.should_look(step):
            patience.note(saved_s=saved_s, taken_s=1.0)
            found.append(step)
    return found


def test_the_first_steps_look_whatever_it_brings():
    first = range(1, FIRST_LOOKS + 1)
    assert looks(Patience(), first, saved_s=0.0) == list(first)


def test_looks_that_do_not_pay_become_rare():
    late = looks(Patience(), range(1, 2000), saved_s=0.0)[FIRST_LOOKS - 1 :]
    pauses = [after - before for before, after in zip(late, late[1:], strict=False)]
    assert pauses[:4] == [RARELY, 2 * RARELY, 4 * RARELY, 8 * RARELY]
    assert set(pauses[4:]) == {MOST_RARELY}


def test_looks_that_pay_again_come_in_every_step():
    patience = Patience()
    looks(patience, range(1, 2000), saved_s=0.0)
    late = looks(patience, range(2000, 3000), saved_s=100.0)
    assert late == list(range(late[0], 3000))
    assert late[0] < 2000 + MOST_RARELY
