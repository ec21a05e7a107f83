"""What a search is asked for, checked before a model is loaded."""

from dataclasses import dataclass, field
from typing import Any

from conflayers.errors import InputError
from conflayers.methods import DRAFTER_OPTIONS, METHODS, build_method
from conflayers.options import whole
from conflayers.plan import FULL
from conflayers.selectors import draft_verify

OFFLINE = "draft-verify"
# Methods with no plan of their own, and methods that name one without looking at any text.
NOTHING_TO_FIND = ("vanilla", "fixed", "view", "lookup")
BLIND = ("uniform", "random")
# Methods that choose anew for each text and keep nothing: a second pass over the prompts would find nothing new.
ONE_PASS = ("clasp", "knapspec", "cosine")
# New tokens of each prompt, other than for Draft & Verify.
NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is searched for.

    Attributes:
        method: of the table.
        options: the method's own.
        budget: seconds, more than 0, those before an interruption included and those of loading and warming up not. One
            candidate or prompt and one comparison are made in any case.
        max_new_tokens: of each prompt, 1 or more; by default 32 for Draft & Verify as in its paper, and for others 256,
            or what the context has room for.
        chat: whether prompts go into the chat template; by default where there is one.
    """

    method: str
    budget: float
    options: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    chat: bool | None = None

    def check(self) -> None:
        """Raise InputError for what can be seen to be wrong before a model is loaded."""
        if type(self.budget) not in (int, float) or not 0 < self.budget < float("inf"):
            raise InputError(f"the budget must be a number of seconds above 0, not {self.budget}")
        if self.max_new_tokens is not None:
            whole("max_new_tokens", self.max_new_tokens, 1)
        if self.method in NOTHING_TO_FIND:
            raise InputError(f"method {self.method!r} has no plan to find: choose a method that searches for one")
        if "fallback" in self.options and not self.weighs_plain_decoding:
            raise InputError("a search finds plans, whether or not they pay: leave out 'fallback'")
        if self.method == OFFLINE:
            build_method(OFFLINE, 1, FULL, **self._drafting)
            draft_verify.Settings(**self._searching)
        else:
            build_method(self.method, 1, None, **self.options)

    @property
    def tokens(self) -> int:
        """New tokens of each prompt, where the context has room for them."""
        return self.max_new_tokens or (draft_verify.NEW_TOKENS if self.method == OFFLINE else NEW_TOKENS)

    @property
    def settings(self) -> draft_verify.Settings:
        """Of the search of Draft & Verify."""
        return draft_verify.Settings(**self._searching)

    @property
    def by_plan(self) -> dict[str, Any]:
        """The options with which the method always drafts by a plan that is given."""
        variant = {name: value for name, value in self.options.items() if name == "variant"}
        return {**self._drafting, **variant, **({"fallback": False} if self.weighs_plain_decoding else {})}

    @property
    def weighs_plain_decoding(self) -> bool:
        """Whether the method compares plans with plain decoding by itself, unless it has `fallback=False`."""
        return self.method == "auto" or (
            self.method == "conflayers" and self.options.get("variant", "default") == "default"
        )

    @property
    def _drafting(self) -> dict[str, Any]:
        return {name: value for name, value in self.options.items() if name in DRAFTER_OPTIONS}

    @property
    def _searching(self) -> dict[str, Any]:
        known = METHODS[OFFLINE].options
        if unknown := self.options.keys() - known.keys() - DRAFTER_OPTIONS.keys():
            # Names them as every other method would.
            build_method(OFFLINE, 1, FULL, **dict.fromkeys(unknown))
        return {name: value for name, value in self.options.items() if name in known}


def default_limit(method: str) -> int | None:
    """How many prompts `method` is given at most by default; None for all."""
    return draft_verify.PROMPTS if method == OFFLINE else None
