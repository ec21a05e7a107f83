"""A small model, the options that make drafts reject often, and a model double that says what it is told to say."""

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from doubles import FakeBody
from lossless.reference import assert_untouched
from planted import planted_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from conflayers import Llm, Plan
from conflayers.body.contract import Pass
from conflayers.body.trees import depths
from conflayers.plan import FULL

PROMPT = [1, 2, 3, 4, 5]
PLAN = Plan.layers([1, 3])
VANILLA = {"method": "vanilla"}
CHAIN = {"method": "fixed", "plan": PLAN, "draft_length": 4, "tree": "none"}
TREE = {"method": "fixed", "plan": PLAN, "draft_length": 3, "tree": "paper"}


def small_model(**settings: int) -> LlamaForCausalLM:
    """Layer 1 does almost nothing and layer 3 a lot, so that of PLAN's drafts some are accepted and some are not."""
    return planted_model([1], **{"layers": 5, **settings})


def greedy(model: LlamaForCausalLM, tokens: int, prompt: Sequence[int] = PROMPT, **settings: object) -> list[int]:
    """The new tokens of transformers' own `generate`."""
    settings = {"do_sample": False, "max_new_tokens": tokens, **settings}
    return model.generate(torch.tensor([list(prompt)]), **settings)[0, len(prompt) :].tolist()


def assert_as_new(llm: Llm, expected: Sequence[int]) -> None:
    """Nothing is left on the model, and drafting gives what a model that never failed gives."""
    assert_clean(llm)
    assert llm.generate(PROMPT, max_new_tokens=len(expected), **CHAIN).token_ids == list(expected)


def assert_clean(llm: Llm) -> None:
    """No forward replaced, no hook, nothing written on any module, gradients as they were."""
    assert_untouched(llm.model)
    assert torch.is_grad_enabled()
    assert not any(name.startswith("_conflayers") for module in llm.model.modules() for name in module.__dict__)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, of the byte's value, and then one that ends a text."""
    # How the byte-level decoder writes bytes: printable ones of Latin-1 as they are, the others from U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}
    inner = Tokenizer(models.BPE(vocab={letters[byte]: byte for byte in range(256)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


@dataclass
class ScriptedBody(FakeBody):
    """Says the tokens of a script, then the first of them for ever; where drafts err, the right token comes second."""

    script: Sequence[int] = ()
    prompt: int = 1
    model: LlamaForCausalLM = field(default_factory=lambda: planted_model([], layers=1))
    process: int = field(default_factory=os.getpid)

    @property
    def room(self) -> int:
        return self.capacity

    def put_back(self) -> None:
        pass

    def forward(
        self,
        tokens: Sequence[int],
        *,
        parents: Sequence[int] | None = None,
        rows: int | None = None,
        record: int = 0,
    ) -> Pass:
        if parents is None:
            return super().forward(tokens, rows=rows, record=record)
        start = len(self.cached)
        self.cached.extend(tokens)
        self.passes += 1
        return Pass(torch.stack([self._logits(start + depth + 1) for depth in depths(parents)]))

    def _logits(self, position: int) -> torch.Tensor:
        at = position - self.prompt
        token = self.script[at] if 0 <= at < len(self.script) else self.script[0]
        row = torch.zeros(self.vocab_size)
        row[token] = 10.0
        if self.plan != FULL and not self.agrees(self.plan, position):
            row[(token + 1) % self.vocab_size] = 11.0
        return row


def scripted(
    llm: Llm,
    script: Sequence[int],
    *,
    agrees: Callable[[Plan, int], bool] = lambda plan, position: True,
    trees: bool = False,
    prompt: int = 1,
) -> Llm:
    """`llm` with a body that says `script` after a prompt of so many tokens."""
    other = copy.copy(llm)
    vocabulary = len(llm.tokenizer) if llm.tokenizer is not None else 300
    other.body = ScriptedBody(
        script=script, agrees=agrees, trees=trees, prompt=prompt, model=llm.model, vocab_size=vocabulary
    )
    return other
