"""What a user could pick instead: transformers' own ways to decode, and llama.cpp on the same weights."""

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from conflayers.api import Llm
from conflayers.bench.ways import Answer, Clock, Way, synchronise
from conflayers.body.defaults import end_tokens
from conflayers.compare import transformers_tokens
from conflayers.errors import InputError
from conflayers.options import whole
from conflayers.stats import Stats

LOOKUP_TOKENS = 10
# What transformers says to itself: the drafts of its early exit call `generate` in a way that it means to give up.
OLD_CALL = "Passing `generation_config` together with generation-related arguments"


class _FirstToken(BaseStreamer):  # type: ignore[misc]
    """Notes when the first new token came; transformers puts the prompt first."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.puts, self.at = clock, 0, 0.0

    def put(self, value: Any) -> None:
        self.puts += 1
        if self.puts == 2:
            self.at = self.clock()

    def end(self) -> None:
        """Nothing is left to show."""


@dataclass(slots=True)
class Transformers:
    """`generate` of transformers, with settings of its own.

    Attributes:
        settings: what `generate` is given beside the prompt and the length.
        choice: temperature and seed; greedy if empty.
        counted: whether every pass it makes is one of the whole model, so that passes can be counted from outside.
        inside: entered around every request.
    """

    name: str
    llm: Llm
    settings: dict[str, Any] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    counted: bool = True
    inside: Callable[[], AbstractContextManager[None]] = nullcontext
    clock: Clock = time.perf_counter
    same_text: bool = True

    def __post_init__(self) -> None:
        self.same_text = not self.choice

    def begin(self) -> None:
        """It learns nothing."""

    def run(self, ids: Sequence[int], count: int) -> Answer:
        """Generate; the wall clock is read when the device has finished."""
        model, first = self.llm.model, _FirstToken(self.clock)
        with self.inside(), _passes(model) as passes:
            synchronise(model.device)
            begun = self.clock()
            tokens = transformers_tokens(self.llm, ids, count, streamer=first, **self._sampling(), **self.settings)
            synchronise(model.device)
            seconds = self.clock() - begun
        return Answer(tokens, seconds, first.at - begun, self._stats(ids, tokens, passes[0], seconds))

    def _sampling(self) -> dict[str, Any]:
        if not self.choice:
            return {"do_sample": False}
        if "seed" in self.choice:
            torch.manual_seed(self.choice["seed"])
        return {"do_sample": True, "temperature": self.choice["temperature"]}

    def _stats(self, ids: Sequence[int], tokens: Sequence[int], passes: int, seconds: float) -> Stats:
        stats = Stats(prompt_tokens=len(ids), new_tokens=len(tokens), total_seconds=seconds)
        if self.counted and passes:
            # Of these one was the prompt's.
            stats.num_plain_steps = passes - 1
            stats.num_accepted_draft_tokens = max(len(tokens) - passes, 0)
        return stats


@contextmanager
def _passes(model: torch.nn.Module) -> Iterator[list[int]]:
    count = [0]

    def add(*_: Any) -> None:
        count[0] += 1

    handle = model.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        handle.remove()


@contextmanager
def _without_old_call() -> Iterator[None]:
    """Inside this context transformers keeps that one warning to itself: who benchmarks can do nothing about it."""
    logger = logging.getLogger("transformers.generation.utils")

    def others(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(OLD_CALL)

    logger.addFilter(others)
    try:
        yield
    finally:
        logger.removeFilter(others)


@dataclass(slots=True)
class LlamaCpp:
    """llama.cpp through llama-cpp-python, on a GGUF file of the same weights.

    Attributes:
        file: the GGUF file.
        end: tokens that end a text.
        vocabulary: tokens of the model that it is compared with.
    """

    name: str
    file: Path
    end: frozenset[int]
    vocabulary: int
    context: int
    threads: int
    clock: Clock = time.perf_counter
    # Another engine rounds otherwise: its text may differ without being wrong.
    same_text: bool = True
    _engine: Any = None

    def __post_init__(self) -> None:
        try:
            from llama_cpp import Llama
        except ImportError as error:
            raise InputError(
                "'llamacpp' needs the package llama-cpp-python, which is not installed: pip install llama-cpp-python"
            ) from error
        if not self.file.is_file():
            raise InputError(f"'llamacpp' needs a GGUF file, and there is none at {self.file}")
        try:
            self._engine = Llama(
                str(self.file),
                n_ctx=self.context,
                n_threads=self.threads,
                n_threads_batch=self.threads,
                verbose=False,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise InputError(f"llama.cpp cannot load {self.file}: {error}") from error
        if self._engine.n_vocab() != self.vocabulary:
            raise InputError(
                f"'llamacpp' needs a GGUF file of the same weights: {self.file} is of a model with "
                f"{self._engine.n_vocab()} tokens, and this one has {self.vocabulary}"
            )

    def begin(self) -> None:
        """It learns nothing; the cache of the last prompt is dropped."""
        self._engine.reset()

    def run(self, ids: Sequence[int], count: int) -> Answer:
        """Greedy, from an empty cache."""
        tokens: list[int] = []
        self._engine.reset()
        begun, first = self.clock(), 0.0
        for token in self._engine.generate(list(ids), temp=0.0, repeat_penalty=1.0, reset=True):
            first = first or self.clock()
            tokens.append(int(token))
            if len(tokens) == count or token in self.end:
                break
        seconds = self.clock() - begun
        stats = Stats(
            prompt_tokens=len(ids),
            new_tokens=len(tokens),
            num_plain_steps=max(len(tokens) - 1, 0),
            total_seconds=seconds,
        )
        return Answer(tokens, seconds, first - begun, stats)


def make_hf(llm: Llm, name: str, options: dict[str, Any], choice: dict[str, Any]) -> Transformers:
    """`hf`: plain `generate`."""
    _only(name, options)
    return Transformers(name, llm, choice=choice)


def make_lookup(llm: Llm, name: str, options: dict[str, Any], choice: dict[str, Any]) -> Transformers:
    """`hf-lookup`: drafts are copied from where the last tokens stood before."""
    _only(name, options, "tokens")
    tokens = options.get("tokens", LOOKUP_TOKENS)
    whole("tokens", tokens, 1)
    return Transformers(name, llm, {"prompt_lookup_num_tokens": tokens}, choice)


def make_early_exit(llm: Llm, name: str, options: dict[str, Any], choice: dict[str, Any]) -> Transformers:
    """`hf-early-exit`: drafts by the first layers."""
    _only(name, options, "layer")
    layer = options.get("layer", max(llm.body.layers // 2, 1))
    whole("layer", layer, 1)
    if layer >= llm.body.layers:
        raise InputError(f"{name}: layer must be below the model's {llm.body.layers} layers, not {layer}")
    settings = {"assistant_early_exit": layer}
    return Transformers(name, llm, settings, choice, counted=False, inside=_without_old_call)


def make_llamacpp(llm: Llm, name: str, options: dict[str, Any], choice: dict[str, Any]) -> LlamaCpp:
    """`llamacpp`: another engine."""
    _only(name, options, "file")
    if choice:
        raise InputError("'llamacpp' is compared greedily: leave out --temperature")
    file = options.get("file")
    if file is None:
        raise InputError("'llamacpp' needs a GGUF file of the same weights: llamacpp:file=PATH")
    end = end_tokens(llm.model, {})
    return LlamaCpp(name, Path(str(file)), end, llm.body.vocab_size, llm.body.context, torch.get_num_threads())


PEERS: dict[str, Callable[[Llm, str, dict[str, Any], dict[str, Any]], Way]] = {
    "hf": make_hf,
    "hf-lookup": make_lookup,
    "hf-early-exit": make_early_exit,
    "llamacpp": make_llamacpp,
}


def _only(name: str, options: dict[str, Any], *allowed: str) -> None:
    for option in options:
        if option not in allowed:
            there = ", ".join(allowed) or "none"
            raise InputError(f"{name.partition(':')[0]!r} has no option {option!r}; its options: {there}")


def summary(name: str) -> str:
    """What a peer is, in a line."""
    return (inspect.getdoc(PEERS[name]) or "").partition(": ")[2]
