"""What users call: `load` a model, then `generate` or `stream`."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any

import torch
from transformers import PreTrainedModel

from conflayers.body.choose import choose_body
from conflayers.body.claim import exclusively
from conflayers.body.defaults import end_tokens, logits_processors
from conflayers.body.load import load_checkpoint
from conflayers.body.multimodal import check_inputs, processor_and_tokenizer
from conflayers.body.portable import refuse_training
from conflayers.choice import SETTINGS, split_choice
from conflayers.decoding import decode
from conflayers.errors import InputError, PlanError
from conflayers.expectations import digest, expectations
from conflayers.expected import Expected
from conflayers.methods import build_method, check_names
from conflayers.multimodal import Encoded
from conflayers.plan import FULL, LOOKUP, WHOLE, Plan, load_plan, read_plan, save_plan
from conflayers.prompts import Prompt, encode
from conflayers.round import Method, Selector, check_task, standings_of
from conflayers.selectors.conflayers import ConfLayers
from conflayers.stats import Stats
from conflayers.stream import Result as Result
from conflayers.stream import Stream as Stream
from conflayers.text import Detokenizer, StopStrings

DEFAULT = "auto"
DEFAULT_NEW_TOKENS = 256
# Characters a token of the context may stand for, on average over a prompt: only runs of spaces come anywhere near.
MOST_CHARACTERS = 64
# What `stream` and `generate` take beside a method's options.
REQUEST_OPTIONS = ("method", "task", "plan", "max_new_tokens", "chat", "stop_strings", *SETTINGS)

PlanSource = Plan | str | PathLike[str] | Mapping[str, Any] | None


class Llm:
    """A model that drafts for itself. One request at a time, one sequence a request.

    A request that finds the model busy, in another thread or under another Llm, is refused and may be tried again. A
    process forked after loading answers on one torch thread only; a spawned one is as good as any.

    Args:
        model: a decoder-only causal language model of transformers, in eval mode.
        tokenizer: its tokenizer, or the processor of a model that takes images; without one, prompts must be token ids.
        name: what to call it in reports.
        body: what drives it: "auto" (the fast body where it is right), "fast" or "portable" to insist on one.
        layout: of the fast body's weights: "auto", "plain" as they are, or "packed", a copy laid out for the processor.

    Raises:
        UnsupportedModelError: the model's structure cannot be driven exactly; the message says why.
        InputError: the model is in training mode, or is none of transformers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any = None,
        name: str | None = None,
        body: str = "auto",
        layout: str = "auto",
    ) -> None:
        if not isinstance(model, PreTrainedModel):
            raise InputError(f"model must be a model of transformers, not {type(model).__name__}")
        self.model = model
        self.processor, self.tokenizer = processor_and_tokenizer(tokenizer)
        self.name = name or type(model).__name__
        self.body, self.differences = choose_body(model, body, layout)
        self._expected: dict[str, tuple[Expected, ...]] = {}

    def task(self, method: str | Selector = DEFAULT, plan: PlanSource = None, **options: Any) -> Method:
        """A method with its memory, to be given to several requests of one kind.

        What it learns from one request (plan, costs, what was rejected) serves the next. `generate` makes a fresh one
        for each request that is given none.

        Args:
            method: one of `conflayers methods`, or a selector of your own: an object as `conflayers.round.Selector`.
            plan: a plan, or the file of a saved one or what is in it: it is used and the search is off.
            options: the method's own; with a selector, those for drafts.

        Raises:
            InputError: no such method or option. PlanError: the plan is unreadable or for another model.
        """
        if misplaced := sorted(options.keys() & set(SETTINGS)):
            raise InputError(
                f"{', '.join(misplaced)}: how tokens are chosen is said to generate() or stream(), not to task()"
            )
        if isinstance(plan, str | PathLike):
            plan = load_plan(plan, self.body.identity)
        if isinstance(plan, Mapping):
            plan = read_plan(plan, self.body.identity)
        if plan is not None and not isinstance(plan, Plan):
            raise InputError(f"plan must be a Plan or the path of a saved one, not {plan!r}")
        if not self.body.trees and options.get("tree") == "paper":
            raise InputError(f"{self.name} cannot verify trees exactly: leave out tree='paper' to draft chains")
        made = build_method(method, self.body.layers, plan, **options)
        for drafts in (plan, made.plan):
            if drafts is not None and drafts.precision != WHOLE:
                self.body.check_precision(drafts)
        # Once for a model, and not in the middle of a request.
        quick = self.body.quick() if getattr(made.selector, "views", False) else ()
        for precision in quick:
            self.body.prepare(FULL.at(precision))
        if isinstance(made.selector, ConfLayers):
            made.costs.expectations = self._expectations(quick)
        return replace(made, model=self.body.identity)

    def _expectations(self, precisions: Sequence[str]) -> tuple[Expected, ...]:
        """What this machine is like, found out once for the model as it is; nothing while it is busy."""
        key = digest(self.body, precisions)
        if key not in self._expected:
            with suppress(InputError):
                self._expected[key] = expectations(self.body, precisions)
        return self._expected.get(key, ())

    def check_task(self, task: Method) -> None:
        """Raise InputError if `task` was made for another model."""
        if task.model not in (None, self.body.identity):
            raise InputError("the task was made for another model: ask an Llm of this one for a task of its own")

    def generate(self, prompt: Prompt, **arguments: Any) -> Result:
        """Answer `prompt`; the tokens are those of plain decoding with the whole model.

        Greedy unless sampling is asked for; then they are distributed as the whole model's own.

        Args:
            prompt: a text (put into the model's chat template where there is one), a list of chat messages, with
                images for a model that takes them, token ids, or the inputs that a processor or tokenizer put out.
            arguments: `method` (a name or a selector) and its options or a `task`; `plan`; `max_new_tokens` (256, or
                what the context still has room for); `chat` (True or False to insist on the chat template or on none);
                `stop_strings` (the text ends where one of them is complete); and how tokens are chosen: every field of
                `conflayers.choice.Choice`, such as `temperature`, `top_p` and `seed`.

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
        method: str | Selector | None = None,
        task: Method | None = None,
        plan: PlanSource = None,
        max_new_tokens: int | None = None,
        chat: bool | None = None,
        stop_strings: str | Sequence[str] | None = None,
        **options: Any,
    ) -> Stream:
        """The same as `generate`, as an iterator over pieces of text that never split a character.

        Everything that can be wrong with the arguments is raised here, before the first piece is asked for.
        """
        choice, options = split_choice(options)
        wanted = DEFAULT if method is None else method
        if task is None:
            check_names(wanted, options, REQUEST_OPTIONS)
        else:
            check_task(task, method, plan, options)
            self.check_task(task)
        refuse_training(self.model)
        encoded = self._encode(prompt, chat)
        check_inputs(self.model, encoded.inputs)
        ids = encoded.ids
        count = self._new_tokens(len(ids), max_new_tokens)
        chosen = task or self.task(wanted, plan, **options)
        choice.check_length(count)
        settings = choice.settings()
        processors = logits_processors(self.model, len(ids), self.body.vocab_size, settings, choice.logits_processor)
        stops = None
        if stop_strings is not None:
            if self.tokenizer is None:
                raise InputError("stop_strings needs a tokenizer, and this model came without one")
            stops = StopStrings(self.tokenizer, stop_strings, len(ids))
        rounds = partial(
            decode,
            self.body,
            chosen,
            ids,
            sampler=choice.sampler(processors),
            max_new_tokens=count,
            end=end_tokens(self.model, settings),
            stop=stops,
            prefill=partial(self.body.prefill, ids, encoded.inputs) if encoded.inputs else None,
        )
        return Stream(self._pieces(ids, rounds if count else None, chosen, stops))

    def encode(self, prompt: Prompt, *, chat: bool | None = None) -> list[int]:
        """The token ids the model is given for `prompt`.

        Raises:
            InputError: the prompt is empty, a batch, more than ids (images), or needs a tokenizer or template the model
                does not have.
        """
        encoded = self._encode(prompt, chat)
        if encoded.inputs:
            raise InputError(f"the prompt is more than token ids: it comes with {', '.join(encoded.inputs)}")
        return encoded.ids

    def _encode(self, prompt: Prompt, chat: bool | None) -> Encoded:
        if isinstance(prompt, str) and len(prompt) > MOST_CHARACTERS * self.body.context:
            # A tokenizer takes its time over such a text, for nothing.
            raise InputError(
                f"the prompt has {len(prompt)} characters, which no {self.body.context} tokens of context can hold"
            )
        return encode(prompt, self.tokenizer, self.name, self.body.vocab_size, chat, self.processor)

    def save_plan(self, path: str | PathLike[str], plan: Plan, /, **provenance: Any) -> None:
        """Write `plan` for this model to a file that `plan=` and `--plan` take.

        Raises:
            PlanError: there is no plan, it is not for this model, or the place cannot be written.
        """
        if not isinstance(plan, Plan):
            raise PlanError(f"no plan to save: {plan!r} (a result's plan is None where decoding ended plainly)")
        plan.check(self.body.layers)
        if plan == LOOKUP:
            raise PlanError("no plan to save: lookups need none")
        save_plan(path, plan, self.body.identity, {"model": self.name, **provenance})

    def _new_tokens(self, prompt_tokens: int, wanted: int | None) -> int:
        room = self.body.context - prompt_tokens
        if room < 0:
            raise InputError(f"the prompt has {prompt_tokens} tokens, the model's context is {self.body.context}")
        if wanted is None:
            if not room:
                raise InputError(f"the prompt fills the model's context of {self.body.context} tokens: shorten it")
            return min(DEFAULT_NEW_TOKENS, room)
        if type(wanted) is not int or wanted < 0:
            raise InputError(f"max_new_tokens must be a whole number of 0 or more, not {wanted!r}")
        if wanted > room:
            raise InputError(
                f"{prompt_tokens} prompt tokens and {wanted} new ones exceed the model's context of "
                f"{self.body.context}; at most {room} fit"
            )
        return wanted

    def _pieces(
        self, ids: list[int], rounds: Any, method: Method, stops: StopStrings | None
    ) -> Generator[str, None, Result]:
        """Run the request, or nothing where there are no `rounds` to run."""
        detokenizer = Detokenizer(self.tokenizer) if self.tokenizer is not None else None
        stats = Stats(prompt_tokens=len(ids))
        known = len(method.decisions)
        tokens: list[int] = []
        text = ""
        running = exclusively(self.body, rounds(stats=stats) if rounds else _no_rounds())
        try:
            for new in running:
                tokens.extend(new)
                if detokenizer is not None and (piece := _until_stop(text, detokenizer.push(new), stops)):
                    text += piece
                    yield piece
        finally:
            running.close()
        if detokenizer is not None and (piece := _until_stop(text, detokenizer.finish(), stops)):
            text += piece
            yield piece
        stats.decisions = method.decisions[known:]
        return Result(text, tokens, ids, stats, method.plan, stats.decisions, standings_of(method.selector))


def _until_stop(text: str, piece: str, stops: StopStrings | None) -> str:
    return stops.cut(text, piece) if stops else piece


def _no_rounds() -> Generator[tuple[int, ...], None, None]:
    yield from ()


def load(
    source: str | PathLike[str],
    *,
    dtype: str | torch.dtype = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    progress: bool = False,
    body: str = "auto",
    layout: str = "auto",
) -> Llm:
    """Load a model and make it ready to draft for itself.

    Args:
        source: a hub id, a folder, a GGUF file, or the alias `smollm2`.
        dtype: "auto" (the checkpoint's own, float32 for GGUF), "float32", "bfloat16" or "float16".
        device: a torch device; by default an accelerator if there is one.
        trust_remote_code: allow a repository's own Python code to run.
        revision: of a hub repository.
        progress: show what takes long, on standard error.
        body, layout: what drives the model; see `Llm`.

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
    return Llm(checkpoint.model, checkpoint.tokenizer, checkpoint.name, body, layout)
