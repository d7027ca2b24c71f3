"""Whether looking for drafts is worth the time of the host that it takes."""

MEMORY = 0.95  # weight kept per step: the looks of the last 20 count, so one after a pause nearly decides
FIRST_LOOKS = 32  # of a run, whatever they bring
RARELY = 32  # steps to the next look after one that did not pay, and twice as many each time
MOST_RARELY = 256
DEALS = 2.0  # times the search: dealing with what was found, and learning from it


class Patience:
    """Says when to look for drafts: while that saves more time than it takes, else every now and then."""

    def __init__(self) -> None:
        self._saved_s = 0.0
        self._taken_s = 0.0
        self._num_steps = self._noted_at = 0
        self._pause = RARELY

    def should_look(self, step: int) -> bool:
        """Whether to look in this step, by its number, if it is one in which a look is possible."""
        self._num_steps = step
        if self._num_steps <= FIRST_LOOKS or step - self._noted_at >= self._pause:
            return True
        return self._saved_s > self._taken_s

    def note(self, *, saved_s: float, taken_s: float) -> None:
        """Add a look: the seconds that drafts save by estimate, and those that it took to find them."""
        kept = MEMORY ** (self._num_steps - self._noted_at)
        self._noted_at = self._num_steps
        self._saved_s = kept * self._saved_s + (1 - kept) * saved_s
        self._taken_s = kept * self._taken_s + (1 - kept) * DEALS * taken_s
        if self._saved_s > self._taken_s or self._num_steps <= FIRST_LOOKS:
            self._pause = RARELY
        else:
            self._pause = min(2 * self._pause, MOST_RARELY)
