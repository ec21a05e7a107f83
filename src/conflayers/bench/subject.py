"""The model under the benchmark, as the runner needs it: requests in, texts and gaps out. Nothing of it is timed."""

from collections.abc import Sequence
from typing import Protocol

from conflayers.api import Llm
from conflayers.errors import InputError
from conflayers.selectors.rule import every_second_layer

WARM_UP_DRAFT = 4


class Subject(Protocol):
    """What the runner asks of a model beside decoding."""

    @property
    def context(self) -> int:
        """Tokens that prompt and answer may have together."""
        ...

    def encode(self, turns: Sequence[str]) -> list[int]:
        """The prompt of a dialogue: texts of user and model in turns, the user's first and last."""
        ...

    def warm_up(self, ids: Sequence[int], count: int) -> None:
        """Draft and verify once, whatever the methods do first: their first drafts are not to be the machine's."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of new tokens, special ones left out."""
        ...

    def gap(self, ids: Sequence[int], better: int, other: int) -> float:
        """The whole model's logit of `better` less that of `other` behind `ids`."""
        ...


def room(subject: Subject, ids: Sequence[int]) -> int:
    """New tokens that fit behind a prompt."""
    return subject.context - len(ids)


class LlmSubject:
    """A loaded model.

    Args:
        llm: the model, with its tokenizer.
        chat: put prompts into the chat template; None for where there is one.
    """

    def __init__(self, llm: Llm, chat: bool | None = None) -> None:
        if llm.tokenizer is None:
            raise InputError(f"{llm.name} came without a tokenizer, which a benchmark of texts needs")
        self.llm, self.chat = llm, chat
        self.templated = chat is not False and bool(getattr(llm.tokenizer, "chat_template", None))

    @property
    def context(self) -> int:
        """Tokens of the model's context."""
        return self.llm.body.context

    def encode(self, turns: Sequence[str]) -> list[int]:
        """By the chat template where there is one; else the texts, an empty line between them."""
        if self.templated and len(turns) > 1:
            roles = ("user", "assistant")
            messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
            return self.llm.encode(messages)
        return self.llm.encode("\n\n".join(turns), chat=self.chat)

    def warm_up(self, ids: Sequence[int], count: int) -> None:
        """With every second layer, in drafts of a fixed length."""
        plan = every_second_layer(self.llm.body.layers)
        self.llm.generate(list(ids), method="fixed", plan=plan, draft_length=WARM_UP_DRAFT, max_new_tokens=count)

    def text(self, ids: Sequence[int]) -> str:
        """Decoded by the tokenizer."""
        text: str = self.llm.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def gap(self, ids: Sequence[int], better: int, other: int) -> float:
        """By one pass over `ids`."""
        body = self.llm.body
        # The cache stays, as after every request: what is bound to it need not be made anew for the next.
        body.reserve(len(ids))
        logits = body.forward(list(ids), rows=1).logits[-1]
        return float(logits[better] - logits[other])
