"""What short passes as one call offer, whoever computes them: the processor's kernels, or an accelerator's."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from conflayers.body.cache import PositionedCache
from conflayers.body.contract import Pass
from conflayers.body.operators import SHORT
from conflayers.body.sight import Sight
from conflayers.body.weights import Form
from conflayers.plan import Plan

# Cosine and sine of every position, [positions, width].
Angles = tuple[torch.Tensor, torch.Tensor]


class Passes(ABC):
    """Passes over one model's forms, a few tokens each, as one call.

    Attributes:
        embedding: [vocabulary, hidden].
        width: of a head.
        recorded: whether what `prepare` does is anything.
    """

    embedding: torch.Tensor
    width: int
    recorded = False

    @property
    @abstractmethod
    def texts(self) -> int:
        """The longest text, in tokens, that short passes are faster with than one of torch's operators."""

    @abstractmethod
    def runs(self, form: Form) -> bool:
        """Whether passes over this form can be run here."""

    def capacity(self, tokens: int) -> int:
        """Tokens to make room for where room for so many is wanted."""
        return tokens

    @abstractmethod
    def takes(self, cache: PositionedCache) -> bool:
        """Whether keys and values can be read and written there; makes them if there are none yet."""

    @abstractmethod
    def prepare(self, form: Form, plan: Plan, angles: Angles, cache: PositionedCache) -> None:
        """Do now what the first passes by a plan would, so that what these take is what passes take."""

    @abstractmethod
    def __call__(
        self,
        form: Form,
        plan: Plan,
        tokens: Sequence[int],
        sight: Sight,
        angles: Angles,
        cache: PositionedCache,
        wanted: int,
        traced: int,
    ) -> Pass:
        """Run a few tokens, and write their keys and values behind what the cache holds.

        Args:
            form: one that `runs` has nothing against.
            plan: what to leave out.
            tokens: up to `SHORT`.
            sight: where each is, and what it sees.
            angles: cosine and sine of every position, [positions, width]; the sine carries the sign of the rotation.
            cache: the one that `takes` was last asked about, and had nothing against.
            wanted: rows of logits, of the last tokens.
            traced: rows to keep of what sublayers put out, of the last tokens.

        Returns:
            Logits [wanted, vocabulary], and if rows are traced what the sublayers that ran put out: the caller's own.

        Raises:
            IndexError: the model has no such token.
        """

    @property
    def bytes(self) -> int:
        """Memory held beside forms and the cache."""
        return 0

    @abstractmethod
    def forget(self) -> None:
        """Let go of all that belongs to a cache."""

    @contextmanager
    def watched(self) -> Iterator[dict[str, tuple[float, int]]]:
        """Fills, at the end, a dictionary with the seconds of every stage of the passes inside, and how often it was;
        empty where torch's profiler sees them."""
        yield {}

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise IndexError if the model lacks one of them."""
        if min(tokens) < 0 or max(tokens) >= len(self.embedding):
            raise IndexError(f"tokens are 0 to {len(self.embedding) - 1}, and one is {min(tokens)} or {max(tokens)}")

    @torch.no_grad()
    def steady(self, form: Form) -> bool:
        """Whether a few tokens at once have the bits that they have one by one, as two layers and a text tell."""
        generator = torch.Generator().manual_seed(0)
        tables = torch.randn(2, SHORT, self.width, generator=generator, dtype=torch.float32, device="cpu")
        angles = tuple(tables.to(self.embedding.device, self.embedding.dtype))
        plan = Plan.layers(range(2, len(form.layers)))
        text = [i * 37 % len(self.embedding) for i in range(SHORT)]
        # A cache is taken for the same one for as long as it is there.
        cache = PositionedCache([None] * len(form.layers), SHORT)

        def run(at_once: int) -> torch.Tensor:
            outs = []
            cache.rollback(0)
            for start in range(0, SHORT, at_once):
                tokens = text[start : start + at_once]
                assert self.takes(cache)
                sight = Sight.chain(start, len(tokens))
                outs.append(self(form, plan, tokens, sight, angles, cache, len(tokens), 0).logits)
                cache.advance(len(tokens))
            return torch.cat(outs)

        alone = run(1)
        return all(torch.equal(run(count), alone) for count in (3, 11, SHORT))
