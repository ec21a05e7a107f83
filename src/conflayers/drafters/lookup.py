"""Draft what came after the same words before, and with the model's own sublayers where that is not likely right.

A token that stood in the text before costs no pass, so it is taken wherever it is worth its row of the verification and
the model's own draft would not be so much better that its step pays. The rule is this project's own; the tokens come
from a suffix automaton over prompt and output (`suffixes`).
"""

from dataclasses import dataclass, field

from conflayers.body.contract import Pass
from conflayers.costs import Costs
from conflayers.draft import MOST_SIBLINGS, Draft
from conflayers.drafters.calibration import Calibration
from conflayers.drafters.length import CONFIDENCE, FIRST, MAX_TOKENS
from conflayers.drafters.siblings import NoSiblings, Siblings, wide
from conflayers.options import whole
from conflayers.plan import LOOKUP, Plan
from conflayers.round import Round, State
from conflayers.sampling import Proposal
from conflayers.suffixes import Cursor, Suffixes


def confidence(length: int) -> float:
    """What a token found behind a suffix of `length` tokens is sure of, 0 to 1, until it is known what that is worth.

    It orders lengths: short suffixes in steps of a token or two, long ones in tens.
    """
    return length / (length + 1)


@dataclass(slots=True)
class Lookup:
    """Tokens found in the text so far, and tokens of the model's own between and behind them.

    By the plan `LOOKUP` only the former. The text of a request that goes on where the last one ended, as in a dialogue,
    is searched with all that was before it.

    Attributes:
        costs: measured as decoding goes on.
        calibration: what confidences have been worth, of tokens found and of drafts by every plan.
        siblings: what is verified beside tokens of the model's own.
        max_tokens: the longest chain, 1 or more.
    """

    costs: Costs
    calibration: Calibration = field(default_factory=Calibration)
    siblings: Siblings = field(default_factory=NoSiblings)
    max_tokens: int = MAX_TOKENS
    _text: Suffixes = field(default_factory=Suffixes)
    _request: list[int] | None = None  # the tokens of the request that was read last

    def __post_init__(self) -> None:
        whole("max_draft_tokens", self.max_tokens, 1)

    def draft(self, state: State, plan: Plan) -> Draft:
        """See `round.Drafter.draft`."""
        self._read(state.tokens)
        chain = _Chain(state, plan, self._text.cursor, self._prices(plan))
        most = min(self.max_tokens, state.left - 1)
        if plan == LOOKUP:
            while chain.length < most and self._take_found(chain):
                pass
            return chain.draft
        start = state.body.length
        with state.body.running(plan):
            chain.wide = wide(self.siblings, state.body)
            while chain.length < most and (self._take_found(chain) or self._take_own(chain, most)):
                pass
        state.body.rollback(start)
        chain.add_siblings()
        return chain.draft

    def learn(self, done: Round) -> None:
        """See `round.Drafter.learn`."""
        self.calibration.learn(done)

    def _prices(self, plan: Plan) -> "_Prices":
        step = self.costs.draft_step(plan) if plan != LOOKUP and self.costs.step_known(plan) else None
        rate = self.calibration.of(plan).rate
        return _Prices(self.costs.token_seconds, self.costs.row_seconds, step, rate)

    def _read(self, tokens: list[int]) -> None:
        # A request's list only grows; to compare it with what is known takes longer the more there is.
        if tokens is not self._request and tokens[: len(self._text.tokens)] != self._text.tokens:
            self._text = Suffixes()
            self.calibration.another_text(LOOKUP)
        self._request = tokens
        self._text.extend(tokens[len(self._text.tokens) :])

    def _take_found(self, chain: "_Chain") -> bool:
        """Add the token that was found, if it is worth its row and a step of the model's own is not worth more."""
        token = self._text.after(chain.cursor)
        if token is None or chain.ended:
            return False
        sure = confidence(chain.cursor.length)
        accepted = self.calibration.of(LOOKUP).acceptance(sure)
        prices, value = chain.prices, chain.reach * chain.prices.token
        if value * accepted <= prices.row:
            return False
        if chain.plan != LOOKUP:
            # A wrong token also ends the chain, which would have gone on for about one more.
            better = (prices.rate - accepted) * (1 + prices.rate) * value
            if better > (self.costs.plain_step if prices.step is None else prices.step):
                return False
        chain.draft.looked_up.add(chain.length)
        if (q := chain.state.sampler.certain(token, chain.state.body.vocab_size)) is not None:
            chain.draft.drawn_from[chain.length - 1] = q
        chain.extend(token, sure, accepted, self._text)
        return True

    def _take_own(self, chain: "_Chain", most: int) -> bool:
        """Add tokens that the model's own sublayers draft, while each is worth its step and none is found, up to `most`
        in all; False where there is none to add."""
        before = chain.length

        def following(step: Pass) -> int | None:
            chain.unread.clear()
            proposal = chain.state.sampler.propose(chain.text, step.logits[0], step.best[0] if step.best else None)
            if proposal is None:
                chain.ended = True
                return None
            self._extend(chain, proposal)
            # What is found, if it is, has to be run with the token before it.
            goes_on = chain.length < most and not self._take_found(chain) and self._worth_a_step(chain)
            return chain.unread.pop() if goes_on else None

        if self._worth_a_step(chain):
            chain.state.body.chain(chain.unread[:], most - before, following)
        return chain.length > before

    def _extend(self, chain: "_Chain", proposal: Proposal) -> None:
        """Add the token that was proposed."""
        if chain.wide:
            drafted = chain.draft.confidences
            chain.beside[chain.length] = self.siblings.beside(proposal, drafted, chain.plan, chain.state.sampler)
        if proposal.probabilities is not None:
            chain.draft.drawn_from[chain.length - 1] = proposal.probabilities
        accepted = self.calibration.of(chain.plan).acceptance(proposal.confidence)
        chain.extend(proposal.token, proposal.confidence, accepted, self._text)

    def _worth_a_step(self, chain: "_Chain") -> bool:
        """Whether another token is; the first always is."""
        if chain.ended or not chain.length:
            return not chain.ended
        last = chain.draft.confidences[-1]
        if not last >= 0:
            return False
        prices = chain.prices
        if prices.step is None:
            return last >= CONFIDENCE and chain.length < FIRST
        return chain.reach * prices.rate * prices.token > prices.step + prices.row


@dataclass(frozen=True, slots=True)
class _Prices:
    """What a draft is decided by.

    Attributes:
        token, row, step: seconds of a token at present, a row of the verification, and a draft step; None for a step
            that nobody has measured.
        rate: the probability that a token of the model's own that is not drafted yet is accepted.
    """

    token: float
    row: float
    step: float | None
    rate: float


@dataclass(slots=True)
class _Chain:
    """A draft that grows.

    Attributes:
        cursor: where the text and the chain end in the automaton.
        reach: the probability that all of the chain is accepted.
        unread: tokens that the model's own draft has not run yet.
        text: all tokens so far.
        beside: by depth, what is verified beside the chain.
        wide: whether it may have siblings.
        ended: whether there is nothing to add, as where the last token ends the text.
    """

    state: State
    plan: Plan
    cursor: Cursor
    prices: _Prices
    draft: Draft = field(default_factory=Draft)
    reach: float = 1.0
    unread: list[int] = field(init=False)
    text: list[int] = field(init=False)
    beside: dict[int, list[int]] = field(default_factory=dict)
    wide: bool = False
    ended: bool = False

    def __post_init__(self) -> None:
        self.text = list(self.state.tokens)
        self.unread = self.text[-1:]

    @property
    def length(self) -> int:
        """Tokens so far."""
        return self.draft.chain

    def extend(self, token: int, sure: float, accepted: float, suffixes: Suffixes) -> None:
        """Add a token."""
        self.draft.extend(token, sure)
        self.text.append(token)
        self.unread.append(token)
        self.reach *= accepted
        self.cursor = suffixes.follow(self.cursor, token)
        self.ended = token in self.state.end

    def add_siblings(self) -> None:
        """Close the chain."""
        for depth, tokens in self.beside.items():
            for token in tokens[: MOST_SIBLINGS + self.length - len(self.draft)]:
                self.draft.add_sibling(depth, token)
