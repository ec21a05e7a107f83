"""Where the end of a text stood before: a suffix automaton that grows token by token.

Its states are the sets of substrings that end in the same places (Blumer et al., 1985). Whoever follows the text with a
cursor knows at every token the longest suffix that occurred before and what came after it then; drafts taken from there
cost no pass of a model (Hu et al., SAM Decoding, arXiv 2411.10666).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

ROOT = 0
# Shorter suffixes that are told of a new place, at most: a text that repeats one token has one of every length.
TOLD = 32


@dataclass(frozen=True, slots=True)
class Cursor:
    """A suffix of some text that occurs in the automaton's: its state there, and its tokens."""

    state: int = ROOT
    length: int = 0


@dataclass(slots=True)
class Suffixes:
    """The automaton of one text.

    Attributes:
        tokens: of the text.
        cursor: the longest suffix of the text that occurred in it before.
    """

    tokens: list[int] = field(default_factory=list)
    cursor: Cursor = field(default_factory=Cursor)
    _next: list[dict[int, int]] = field(default_factory=lambda: [{}])
    _link: list[int] = field(default_factory=lambda: [-1])
    _longest: list[int] = field(default_factory=lambda: [0])
    _end: list[int] = field(default_factory=lambda: [-1])  # the latest place known where a state's substrings end
    _last: int = ROOT

    def extend(self, tokens: Iterable[int]) -> None:
        """Let the text go on."""
        for token in tokens:
            # Before the text has the token, so that a suffix is never found in itself.
            moved = self.follow(self.cursor, token)
            self._add(token)
            # Not sooner: what ends at the end of the text has nothing after it.
            self._tell(self._settled(self.cursor).state, len(self.tokens) - 2)
            self.cursor = self._settled(moved)

    def follow(self, cursor: Cursor, token: int) -> Cursor:
        """The longest suffix of the cursor's and `token` behind it that occurs in the text."""
        state, length = cursor.state, cursor.length
        while state != ROOT and token not in self._next[state]:
            state = self._link[state]
            length = self._longest[state]
        if token not in self._next[state]:
            return Cursor()
        return self._settled(Cursor(self._next[state][token], length + 1))

    def after(self, cursor: Cursor) -> int | None:
        """The token that came after the cursor's suffix when it was last seen; None where nothing did."""
        place = self._end[cursor.state] + 1
        return self.tokens[place] if cursor.length and place < len(self.tokens) else None

    def _settled(self, cursor: Cursor) -> Cursor:
        """In the state whose substrings have the cursor's length among them: states may have been split since."""
        state = cursor.state
        while state != ROOT and self._longest[self._link[state]] >= cursor.length:
            state = self._link[state]
        return Cursor(state, cursor.length)

    def _add(self, token: int) -> None:
        place = len(self.tokens)
        self.tokens.append(token)
        new = self._state({}, place + 1, place)
        at = self._last
        while at >= 0 and token not in self._next[at]:
            self._next[at][token] = new
            at = self._link[at]
        self._link[new] = ROOT if at < 0 else self._split(at, token)
        self._last = new

    def _split(self, at: int, token: int) -> int:
        """The state of exactly what `at` is longest of and `token`, made of a longer one where there is none."""
        old = self._next[at][token]
        if self._longest[old] == self._longest[at] + 1:
            return old
        made = self._state(dict(self._next[old]), self._longest[at] + 1, self._end[old])
        self._link[made], self._link[old] = self._link[old], made
        while at >= 0 and self._next[at].get(token) == old:
            self._next[at][token] = made
            at = self._link[at]
        return made

    def _state(self, following: dict[int, int], longest: int, end: int) -> int:
        self._next.append(following)
        self._link.append(ROOT)
        self._longest.append(longest)
        self._end.append(end)
        return len(self._next) - 1

    def _tell(self, state: int, place: int) -> None:
        """A suffix was seen again, ending at `place`, and all shorter ones with it."""
        for _ in range(TOLD):
            if state == ROOT:
                break
            self._end[state] = place
            state = self._link[state]
