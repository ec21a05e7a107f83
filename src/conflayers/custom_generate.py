"""Self-speculative decoding inside transformers: `model.generate(..., custom_generate=SelfSpeculative())`."""

import sys
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation import EosTokenCriteria, GenerateDecoderOnlyOutput

from conflayers.api import DEFAULT, Llm, PlanSource, Result
from conflayers.body.claim import claim, exclusively, let_go
from conflayers.body.contract import Pass
from conflayers.body.handover import adopt, hand_back
from conflayers.body.multimodal import processor_and_tokenizer
from conflayers.body.portable import PortableBody, refuse_training
from conflayers.choice import SETTINGS, Choice
from conflayers.decoding import decode
from conflayers.errors import InputError
from conflayers.following import AfterPrompt, Follower, Seen
from conflayers.generate_request import Request, check_dropped, check_settings, read_request
from conflayers.generate_stops import Strings, stop_strings_apart, tokenizer_given, with_stop_strings
from conflayers.methods import build_method
from conflayers.plan import FULL
from conflayers.round import Method, Selector, check_task
from conflayers.sampling import Sampler
from conflayers.stats import Stats


class SelfSpeculative:
    """What `generate` takes as `custom_generate`: the model drafts for itself, and says what it would say anyway.

    One object serves any number of requests, one at a time. It keeps what it learnt of the model's structure until it
    is used with another model.

    Args:
        method, plan, method_options: as for `Llm.generate`.
        task: a method with its memory, from `Llm.task` of the same model, in place of these three. Without one each
            request begins anew.
        seed: with sampling, the same seed gives the same text. Without one torch's global generator names it, so that
            `torch.manual_seed` repeats a text as it does in `generate`; the draws are others than there, their
            distribution is the same.
        acceptance: "coupled" (default) or "residual", which accepts more drafts but repeats a text only if nothing is
            decided by measured time; see `conflayers.choice.Choice`.
        streamer: gets the prompt and then every token, as does one that is given to `generate` itself.
        tokenizer: for `generate(stop_strings=...)`, where it is not given to `generate` itself. Stop strings in
            generation settings it refuses by itself; `SelfSpeculative.generate` takes these too.

    Attributes:
        result: of the last request.

    Raises:
        InputError: an option that does not exist, or is out of range.
    """

    def __init__(
        self,
        method: str | Selector | None = None,
        plan: PlanSource = None,
        task: Method | None = None,
        seed: int | None = None,
        acceptance: str | None = None,
        streamer: Any = None,
        tokenizer: Any = None,
        **method_options: Any,
    ) -> None:
        if misplaced := sorted(method_options.keys() & set(SETTINGS)):
            raise InputError(f"{', '.join(misplaced)}: give how tokens are chosen to generate() itself")
        wanted = DEFAULT if method is None else method
        if task is not None:
            check_task(task, method, plan, method_options)
        else:  # what can be seen to be wrong without a model is said now
            build_method(wanted, 1, None if plan is None else FULL, **method_options)
        Choice(do_sample=True, seed=seed, acceptance=acceptance)
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise InputError(f"streamer must have put() and end(), as transformers' own, not {streamer!r}")
        if tokenizer is not None and not hasattr(tokenizer, "decode"):
            raise InputError(f"tokenizer must be one of transformers, not {tokenizer!r}")
        self.streamer = streamer
        _, self.tokenizer = processor_and_tokenizer(tokenizer)
        self._task = task
        self._method: dict[str, Any] = {"method": wanted, "plan": plan, **method_options}
        self._seed, self._acceptance = seed, acceptance
        self._llm: Llm | None = None
        self._driven: tuple[Any, ...] = ()
        self._result: Result | None = None

    @property
    def result(self) -> Result:
        """The last request's tokens, statistics, plan and decisions.

        Raises:
            InputError: there was none, or it did not come to its end.
        """
        if self._result is None:
            raise InputError("no request has come to its end yet")
        return self._result

    @property
    def stats(self) -> Stats:
        """Counts and times of the last request; raises as `result`."""
        return self.result.stats

    def generate(
        self,
        model: PreTrainedModel,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        streamer: Any = None,
        tokenizer: Any = None,
        stop_strings: Strings = None,
        **arguments: Any,
    ) -> GenerateDecoderOnlyOutput | torch.Tensor:
        """`model.generate(...)`, self-speculatively, with the `streamer` and the `tokenizer` given here.

        Stop strings may also come from the generation settings, which `custom_generate=` cannot do.

        Raises:
            InputError: an argument that cannot be honoured; the message names it.
        """
        check_dropped({name: arguments.pop(name, None) for name in ("assistant_model", "synced_gpus")})
        decoding = partial(
            self._decode,
            streamer=self.streamer if streamer is None else streamer,
            tokenizer=self.tokenizer if tokenizer is None else processor_and_tokenizer(tokenizer)[1],
        )
        with stop_strings_apart(model, generation_config, stop_strings) as (config, strings):
            # The class's own: a folder with custom code replaces the instance's.
            plain: Callable[..., Any] = type(model).generate
            if inputs is not None:
                arguments["inputs"] = inputs
            return plain(model, generation_config=config, custom_generate=decoding, stop_strings=strings, **arguments)

    def __call__(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        stop_strings: Strings = None,
        **model_kwargs: Any,
    ) -> GenerateDecoderOnlyOutput | torch.Tensor:
        """What `generate` calls; see there for the arguments and what comes back.

        Raises:
            InputError: an argument of `generate` that cannot be honoured; the message names it.
            UnsupportedModelError: the model's structure cannot be driven exactly.
        """
        caller, streamer, tokenizer = sys._getframe(1), self.streamer, self.tokenizer
        if caller.f_code.co_name == "generate" and isinstance(caller.f_locals.get("self"), GenerationMixin):
            # There is no other way to learn of them, and dropping them silently would be wrong.
            check_dropped(caller.f_locals)
            given = caller.f_locals.get("streamer")
            if given is not None and streamer is not None:
                raise InputError("one streamer is given to generate() and one to SelfSpeculative(): give either")
            if given is not None:
                streamer = AfterPrompt(given)
            tokenizer = tokenizer or tokenizer_given(caller)
        return self._decode(
            model,
            input_ids,
            logits_processor,
            stopping_criteria,
            generation_config,
            stop_strings,
            streamer=streamer,
            tokenizer=tokenizer,
            **model_kwargs,
        )

    def _decode(
        self,
        model: PreTrainedModel,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        stop_strings: Strings = None,
        *,
        streamer: Any,
        tokenizer: Any,
        **model_kwargs: Any,
    ) -> GenerateDecoderOnlyOutput | torch.Tensor:
        self._result = None
        check_settings(generation_config, logits_processor)
        stopping_criteria = with_stop_strings(stopping_criteria, stop_strings, tokenizer)
        # Buffers made in inference mode could not be written to outside of it later.
        with torch.inference_mode(False), torch.no_grad():
            llm = self._driver(model)
            limit = stopping_criteria.max_length or generation_config.max_length
            request = read_request(llm.body, input_ids, generation_config, limit, model_kwargs)
            follower = Follower(request, stopping_criteria, streamer, generation_config)
            sampler = self._sampler(request, logits_processor, follower.seen, bool(generation_config.do_sample))
            method = self._task_for(llm)
            known = len(method.decisions)
            stats = _run(llm.body, method, request, sampler, follower, _wants_cache(request, generation_config))
            stats.decisions = method.decisions[known:]
            self._result = _result(request, follower, stats, method, tokenizer)
            follower.end()
            return _output(request, follower, generation_config)

    def _driver(self, model: PreTrainedModel) -> Llm:
        """The model's `Llm`, made anew where the model is another one or was moved or converted."""
        driven = (model.device, model.dtype, model.config._attn_implementation)
        refuse_training(model)
        if self._llm is None or self._llm.model is not model or self._driven != driven:
            probing = object()
            claim(model, probing)
            try:
                self._llm, self._driven = Llm(model, self.tokenizer), driven
            finally:
                let_go(model, probing)
        return self._llm

    def _task_for(self, llm: Llm) -> Method:
        if self._task is None:
            return llm.task(**self._method)
        llm.check_task(self._task)
        return self._task

    def _sampler(self, request: Request, processors: LogitsProcessorList, seen: Seen | None, sampled: bool) -> Sampler:
        # Without a seed torch's global generator is asked for one: who has set it may expect the same text again.
        acceptance = self._acceptance or ("coupled" if sampled else None)
        choice = Choice(do_sample=sampled, seed=self._seed, acceptance=acceptance)
        if seen is not None:
            seen.processors = processors
            processors = LogitsProcessorList([seen])
        return choice.sampler(processors, request.before)


def _run(
    body: PortableBody, method: Method, request: Request, sampler: Sampler, follower: Follower, wants_cache: bool
) -> Stats:
    stats = Stats()

    def prefill(record: int) -> Pass:
        if request.inputs:
            return body.prefill(request.tokens, request.inputs, record)
        adopt(body, request.cache, request.padding)
        return body.forward(request.tokens[request.cached :], rows=1, record=record)

    def rounds() -> Generator[tuple[int, ...], None, None]:
        follower.begin()
        yield from decode(
            body,
            method,
            request.tokens,
            sampler=sampler,
            max_new_tokens=request.new_tokens,
            end=_end_tokens(follower.criteria),
            stats=stats,
            stop=follower,
            prefill=prefill if request.cached or request.inputs else None,
        )
        if wants_cache:
            hand_back(body, request.cache, request.padding)

    try:
        for _ in exclusively(body, rounds()):
            pass
    except BaseException:
        # Rows of a foreign shape may have come in with a cache.
        body.release()
        raise
    return stats


def _end_tokens(criteria: StoppingCriteriaList) -> frozenset[int]:
    ids = [one.eos_token_id for one in criteria if isinstance(one, EosTokenCriteria)]
    return frozenset(token for some in ids for token in some.reshape(-1).tolist())


def _result(request: Request, follower: Follower, stats: Stats, method: Method, tokenizer: Any) -> Result:
    prompt = request.ids[0].tolist()
    new = follower.ids[0, len(prompt) :].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True) if tokenizer is not None else ""
    return Result(text, new, prompt, stats, method.plan, stats.decisions)


def _output(request: Request, follower: Follower, config: GenerationConfig) -> GenerateDecoderOnlyOutput | torch.Tensor:
    if not config.return_dict_in_generate:
        return follower.ids.clone()
    return GenerateDecoderOnlyOutput(
        sequences=follower.ids.clone(),
        scores=tuple(follower.scores) if config.output_scores else None,
        logits=tuple(follower.logits) if config.output_logits else None,
        past_key_values=request.cache,
    )


def _wants_cache(request: Request, config: GenerationConfig) -> bool:
    """Whether anybody sees the cache that `generate` passed on: it makes one of its own where the caller has none."""
    if request.cache is None or config.return_dict_in_generate:
        return request.cache is not None
    marks = "_is_user_defined" in GenerationMixin._prepare_cache_for_generation.__code__.co_names
    return not marks or getattr(request.cache, "_is_user_defined", False)
