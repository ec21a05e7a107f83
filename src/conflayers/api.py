"""What users call: `load` a model, then `generate` or `stream`."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from transformers import PreTrainedModel

from conflayers.body.defaults import end_tokens, logits_processors
from conflayers.body.load import load_checkpoint
from conflayers.body.portable import PortableBody
from conflayers.body.selftest import self_test
from conflayers.decoding import decode
from conflayers.errors import InputError
from conflayers.methods import build_method
from conflayers.plan import Plan, load_plan, save_plan
from conflayers.round import Method
from conflayers.sampling import Greedy
from conflayers.stats import Stats
from conflayers.text import Detokenizer

DEFAULT_NEW_TOKENS = 256

PlanSource = Plan | str | PathLike[str] | None
Prompt = str | Sequence[int] | Sequence[dict[str, Any]] | torch.Tensor


@dataclass(frozen=True, slots=True)
class Result:
    """One generated answer.

    Attributes:
        text: the answer, special tokens left out; empty if the model came without a tokenizer.
        token_ids: the generated ids, the end-of-sequence token included.
        prompt_ids: the ids the model was given.
        stats: counts and times.
        plan: the plan in use at the end; None for plain decoding.
        decisions: what the method tried, adopted and gave up on the way, in words.
    """

    text: str
    token_ids: list[int]
    prompt_ids: list[int]
    stats: Stats
    plan: Plan | None
    decisions: list[str]


class Stream(Iterator[str]):
    """The pieces of an answer as they are accepted. `result` is there once the last piece is out.

    Closing it, or dropping it, ends the request and leaves the model ready for the next.
    """

    def __init__(self, pieces: Any) -> None:
        self._pieces = pieces
        self._result: Result | None = None

    def __next__(self) -> str:
        try:
            piece: str = next(self._pieces)
        except StopIteration as stop:
            self._result = stop.value or self._result
            raise StopIteration from None
        return piece

    @property
    def result(self) -> Result:
        """The whole answer.

        Raises:
            InputError: the stream has not been read to its end.
        """
        if self._result is None:
            raise InputError("the stream has not ended yet: read it to the end before asking for its result")
        return self._result

    def close(self) -> None:
        """End the request now."""
        self._pieces.close()


class Llm:
    """A model that drafts for itself. One request at a time, one sequence a request.

    Args:
        model: a decoder-only causal language model of transformers, in eval mode.
        tokenizer: its tokenizer; without one, prompts must be token ids.
        name: what to call it in reports.

    Raises:
        UnsupportedModelError: the model's structure cannot be driven exactly; the message says why.
        InputError: the model is in training mode.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any = None, name: str | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or type(model).__name__
        self.body = PortableBody(model)
        self.differences = self_test(self.body)
        self._busy = threading.Lock()

    def task(self, method: str = "conflayers", plan: PlanSource = None, **options: Any) -> Method:
        """A method with its memory, to be given to several requests of one kind.

        What it learns from one request (plan, costs, what was rejected) serves the next. `generate` makes a fresh one
        for each request that is given none.

        Args:
            method: one of `conflayers methods`.
            plan: a plan, or the file of a saved one: it is used and the search is off.
            options: the method's own.

        Raises:
            InputError: no such method or option. PlanError: the plan is unreadable or for another model.
        """
        if isinstance(plan, str | PathLike):
            plan = load_plan(plan, self.body.identity)
        return build_method(method, self.body.layers, plan, **options)

    def generate(self, prompt: Prompt, **arguments: Any) -> Result:
        """Answer `prompt`; the tokens are those of greedy decoding with the whole model.

        Args:
            prompt: a text (put into the model's chat template where there is one), a list of chat messages, or token
                ids.
            arguments: `method` and its options or a `task`; `plan`; `max_new_tokens` (256, or what the context still
                has room for); `chat` (True or False to insist on the chat template or on none).

        Raises:
            InputError: an argument that cannot be honoured; the message names it.
        """
        stream = self.stream(prompt, **arguments)
        for _ in stream:
            pass
        return stream.result

    def stream(
        self,
        prompt: Prompt,
        *,
        method: str | None = None,
        task: Method | None = None,
        plan: PlanSource = None,
        max_new_tokens: int | None = None,
        chat: bool | None = None,
        **options: Any,
    ) -> Stream:
        """The same as `generate`, as an iterator over pieces of text that never split a character.

        Everything that can be wrong with the arguments is raised here, before the first piece is asked for.
        """
        if task is not None and (method is not None or plan is not None or options):
            raise InputError("a task already has its method, plan and options: give either a task or these")
        ids = self.encode(prompt, chat=chat)
        count = self._new_tokens(len(ids), max_new_tokens)
        chosen = task or self.task(method or "conflayers", plan, **options)
        sampler = Greedy(logits_processors(self.model, len(ids)))
        return Stream(self._pieces(ids, count, chosen, sampler))

    def encode(self, prompt: Prompt, *, chat: bool | None = None) -> list[int]:
        """The token ids the model is given for `prompt`.

        Raises:
            InputError: the prompt is empty, a batch, or needs a tokenizer or template the model does not have.
        """
        if isinstance(prompt, torch.Tensor):
            return self._checked(_single_row(prompt))
        if isinstance(prompt, str):
            return self._checked(self._encode_text(prompt, chat))
        items: list[Any] = list(prompt)
        if items and all(isinstance(item, dict) for item in items):
            return self._checked(self._encode_chat(items))
        if items and all(isinstance(item, str | list | tuple) for item in items):
            raise InputError(f"a batch of {len(items)} prompts: only one sequence at a time is supported")
        if not all(type(item) is int for item in items):
            raise InputError("a prompt is a text, a list of chat messages, or a list of token ids")
        return self._checked(items)

    def save_plan(self, path: str | PathLike[str], plan: Plan, **provenance: Any) -> None:
        """Write `plan` for this model to a file that `plan=` and `--plan` take.

        Raises:
            PlanError: the place cannot be written.
        """
        save_plan(path, plan, self.body.identity, {"model": self.name, **provenance})

    def _encode_text(self, text: str, chat: bool | None) -> list[int]:
        if not text:
            raise InputError("the prompt is empty")
        self._need_tokenizer()
        templated = bool(getattr(self.tokenizer, "chat_template", None))
        if chat and not templated:
            raise InputError(f"{self.name} has no chat template; leave out chat=True, or give token ids")
        if templated and chat is not False:
            return self._encode_chat([{"role": "user", "content": text}])
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        self._need_tokenizer()
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError(f"{self.name} has no chat template; give the prompt as a text")
        try:
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except Exception as error:
            raise InputError(f"the chat template of {self.name} rejects the messages: {error}") from error
        ids: list[int] = encoded["input_ids"]
        return ids

    def _need_tokenizer(self) -> None:
        if self.tokenizer is None:
            raise InputError(f"{self.name} came without a tokenizer: give the prompt as token ids")

    def _checked(self, ids: list[int]) -> list[int]:
        if not ids:
            raise InputError("the prompt is empty")
        outside = next((token for token in ids if not 0 <= token < self.body.vocab_size), None)
        if outside is not None:
            raise InputError(f"token id {outside} is outside the model's vocabulary of {self.body.vocab_size}")
        return ids

    def _new_tokens(self, prompt_tokens: int, wanted: int | None) -> int:
        room = self.body.context - prompt_tokens
        if room < 0:
            raise InputError(f"the prompt has {prompt_tokens} tokens, the model's context is {self.body.context}")
        if wanted is None:
            return min(DEFAULT_NEW_TOKENS, room)
        if type(wanted) is not int or wanted < 0:
            raise InputError(f"max_new_tokens must be a whole number of 0 or more, not {wanted!r}")
        if wanted > room:
            raise InputError(
                f"{prompt_tokens} prompt tokens and {wanted} new ones exceed the model's context of "
                f"{self.body.context}; at most {room} fit"
            )
        return wanted

    def _pieces(self, ids: list[int], count: int, method: Method, sampler: Greedy) -> Any:
        if not self._busy.acquire(blocking=False):
            raise InputError("this model is already generating: finish or close that request first")
        try:
            detokenizer = Detokenizer(self.tokenizer) if self.tokenizer is not None else None
            stats = Stats(prompt_tokens=len(ids))
            known = len(getattr(method.selector, "decisions", ()))
            tokens: list[int] = []
            pieces: list[str] = []
            rounds = decode(
                self.body,
                method,
                ids,
                sampler=sampler,
                max_new_tokens=count,
                end=end_tokens(self.model),
                stats=stats,
            )
            for new in rounds if count else ():
                tokens.extend(new)
                if detokenizer is not None and (piece := detokenizer.push(new)):
                    pieces.append(piece)
                    yield piece
            if detokenizer is not None and (piece := detokenizer.finish()):
                pieces.append(piece)
                yield piece
            decisions = list(getattr(method.selector, "decisions", ()))[known:]
            stats.decisions = decisions
            plan = getattr(method.selector, "plan", None)
            return Result("".join(pieces), tokens, ids, stats, plan, decisions)
        finally:
            self._busy.release()


def load(
    source: str | PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = False,
) -> Llm:
    """Load a model and make it ready to draft for itself.

    Args:
        source: a hub id, a folder, a GGUF file, or the alias `smollm2`.
        dtype: "auto" (the checkpoint's own, float32 for GGUF), "float32", "bfloat16" or "float16".
        device: a torch device; by default an accelerator if there is one.
        trust_remote_code: allow a repository's own Python code to run.
        revision: of a hub repository.
        progress: show what takes long, on standard error.

    Raises:
        LoadError: missing, damaged or untrusted files. UnsupportedModelError: a model that cannot be driven exactly.
        InputError: an argument out of range.
    """
    checkpoint = load_checkpoint(
        str(source),
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        revision=revision,
        progress=progress,
    )
    return Llm(checkpoint.model, checkpoint.tokenizer, checkpoint.name)


def _single_row(ids: torch.Tensor) -> list[int]:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"token ids must be whole numbers, not {ids.dtype}")
    if ids.dim() == 2 and ids.shape[0] != 1:
        raise InputError(f"a batch of {ids.shape[0]} prompts: only one sequence at a time is supported")
    if ids.dim() not in (1, 2):
        raise InputError(f"token ids must have one or two dimensions, not {ids.dim()}")
    row: list[int] = ids.reshape(-1).tolist()
    return row
