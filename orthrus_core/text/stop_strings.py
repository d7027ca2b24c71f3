"""Stop strings: found while the text grows, across token borders too."""

from collections.abc import Sequence
from typing import Protocol

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # what decoders write for bytes that are no whole character (yet)
CONTEXT_TOKENS = 8  # tokens that stay when the window is cut, for decoders that look at neighbours
WINDOW_TOKENS = 24  # the window is cut as soon as it can be from this length on
LONGEST_WINDOW = 96  # ... also where it ends in bytes that are no character
CHARACTER_BYTES = 4  # the most bytes, and so tokens, of one


class Decoder(Protocol):
    """What the engine needs of a tokenizer, for stop strings."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of tokens."""


class StopStrings:
    """Looks for stop strings in the growing text of one completion.

    Text is decoded over a window of the last tokens, so that a token costs the same wherever it stands.
    Characters whose bytes are not all there yet wait for the tokens that complete them.

    Attributes:
        found: the stop string that the text contains, the one that begins first; None so far.
    """

    def __init__(self, stop: Sequence[str], decoder: Decoder):
        self._stop = stop
        self._decoder = decoder
        self._window: list[int] = []
        self._before = ""  # end of the text before the window's: a stop string may begin in it
        self._before_len = max(map(len, stop)) - 1
        self.found: str | None = None

    def push(self, token_id: int) -> bool:
        """Add a token; whether the text contains a stop string now."""
        self._window.append(token_id)
        text = self._text(self._window)
        complete = text.rstrip(INCOMPLETE)
        self.found = self._first_in(self._before + complete)
        if len(self._window) >= (WINDOW_TOKENS if complete == text else LONGEST_WINDOW):
            self._cut_window(text)
        return self.found is not None

    def _cut_window(self, text: str) -> None:
        """Leave the last tokens where alone they decode to the end of what the whole window decodes to.

        They do not where the cut is inside a character, or in bytes that a wrong one among them makes
        unreadable. What is wrong may show only when a character's last bytes come, so the texts without the
        last tokens have to agree as well.
        """
        kept = self._window[-CONTEXT_TOKENS:]
        for num_off in range(CHARACTER_BYTES):
            ending = self._text(kept[: CONTEXT_TOKENS - num_off])
            whole = self._text(self._window[: len(self._window) - num_off])
            if not ending or not whole.endswith(ending):
                return
        before = self._before + text.removesuffix(self._text(kept))
        self._before = before[max(0, len(before) - self._before_len) :]
        self._window = kept

    def _text(self, token_ids: list[int]) -> str:
        return self._decoder.decode(token_ids, skip_special_tokens=True)

    def _first_in(self, text: str) -> str | None:
        places = [(text.find(one), rank) for rank, one in enumerate(self._stop) if one in text]
        return self._stop[min(places)[1]] if places else None


def cut_text(text: str, stop_string: str | None, *, include: bool) -> str:
    """Cut a completion's text at the stop string that ended it.

    Args:
        text: of all its tokens; the token that completed the string may go on after it.
        stop_string: as the completion names it; None: the text stays.
        include: whether the string itself stays.
    """
    if stop_string is None:
        return text
    before, found, _ = text.partition(stop_string)
    return before + found if include else before
