"""`generate(custom_generate=...)` gives what plain `generate` gives, for whatever else it is asked for."""

import threading

import pytest
import torch
from cli.conftest import save_model
from lossless.families import SUPPORTED
from lossless.reference import PROMPT, assert_untouched
from planted import planted_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation import BaseStreamer

import conflayers
from conflayers import InputError, Llm, Plan, SelfSpeculative

IDS = torch.tensor([PROMPT])
NEW = 24
KINDS = ("llama", "mistral", "gpt_oss")
# Bad drafts and good ones: every length of accepted run comes up.
DRAFTING = {"method": "fixed", "plan": Plan.layers([2, 3]), "draft_length": 5, "tree": "paper"}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    model = next(family for family in SUPPORTED if family.name == request.param).build()
    yield model
    assert_untouched(model)


@pytest.fixture(scope="module")
def planted():
    model = planted_model([2, 4, 7], layers=8)
    yield model
    assert_untouched(model)


# Made once, since it looks at every new model closely.
SHARED = SelfSpeculative(**DRAFTING)


def drafting(**options):
    return SelfSpeculative(**{**DRAFTING, **options}) if options else SHARED


GREEDY = {"do_sample": False, "max_new_tokens": NEW}
OPTIONS = {
    "greedy": {},
    "max_length": {"max_length": 22, "max_new_tokens": None},
    "one token": {"max_new_tokens": 1},
    "repetition penalty": {"repetition_penalty": 1.4},
    "no repeated n-gram": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[7], [12, 5]]},
    "min_new_tokens": {"min_new_tokens": 20, "eos_token_id": list(range(60)), "pad_token_id": 0},
    "several ends": {"eos_token_id": list(range(20)), "pad_token_id": 0},
    "an end": {"eos_token_id": 60, "pad_token_id": 0},
    "forced end": {"forced_eos_token_id": 3},
    "suppressed": {"suppress_tokens": list(range(0, 120, 2))},
    "begin suppressed": {"begin_suppress_tokens": list(range(60))},
    "decaying length": {"exponential_decay_length_penalty": (5, 1.5), "eos_token_id": 9, "pad_token_id": 0},
    "bias": {"sequence_bias": {(7,): 3.0, (8, 9): -2.0}},
    "allowed tokens": {"prefix_allowed_tokens_fn": lambda batch, ids: list(range(len(ids) % 7, 120, 3))},
    "max_time": {"max_time": 600.0},
    "renormalized": {"renormalize_logits": True, "remove_invalid_values": True},
    "configuration": {
        "generation_config": GenerationConfig(max_new_tokens=25, repetition_penalty=1.2, do_sample=False),
        "max_new_tokens": None,
        "do_sample": None,
    },
}


# The slowest of the models says nothing new about what only concerns the processors.
FEW = ("greedy", "repetition penalty", "several ends", "max_length")
CASES = [(kind, option) for kind in KINDS for option in OPTIONS if kind != "gpt_oss" or option in FEW]


@pytest.mark.parametrize(("model", "option"), CASES, indirect=["model"])
def test_greedy_is_plain_generate(model, option):
    arguments = {name: value for name, value in {**GREEDY, **OPTIONS[option]}.items() if value is not None}
    ours = model.generate(IDS, custom_generate=drafting(), **arguments)

    assert torch.equal(ours, model.generate(IDS, **arguments))


@pytest.mark.parametrize(
    "method", [{}, {"method": "conflayers", "interval": 3, "context_window": 8, "fallback": False}]
)
def test_drafts_are_accepted_and_counted(planted, method):
    speculative = SelfSpeculative(**(method or {"method": "fixed", "plan": Plan.layers([2, 4, 7])}))
    ours = planted.generate(IDS, custom_generate=speculative, **GREEDY)

    assert torch.equal(ours, planted.generate(IDS, **GREEDY))
    assert speculative.stats.new_tokens == NEW
    assert speculative.stats.num_accepted_draft_tokens > 0
    assert speculative.result.token_ids == ours[0, len(PROMPT) :].tolist()
    assert speculative.result.prompt_ids == PROMPT


def test_one_object_serves_several_requests_and_models(planted):
    speculative = SelfSpeculative()
    other = planted_model([3], layers=6, seed=1)
    for which in (planted, other, planted):
        for ids in (IDS, IDS[:, :5]):
            assert torch.equal(
                which.generate(ids, custom_generate=speculative, **GREEDY), which.generate(ids, **GREEDY)
            )


def test_a_task_remembers_and_belongs_to_its_model(planted):
    task = Llm(planted).task(interval=3, context_window=8)
    speculative = SelfSpeculative(task=task)
    for _ in range(2):
        planted.generate(IDS, custom_generate=speculative, **GREEDY)
    assert task.costs is not None
    with pytest.raises(InputError, match="made for another model"):
        planted_model([3], layers=6, seed=1).generate(IDS, custom_generate=speculative, **GREEDY)


def test_a_converted_model_is_driven_anew(planted):
    speculative = drafting(tree="none")
    planted.generate(IDS, custom_generate=speculative, **GREEDY)
    planted.double()
    try:
        ours = planted.generate(IDS, custom_generate=speculative, **GREEDY)
        assert torch.equal(ours, planted.generate(IDS, **GREEDY))
    finally:
        planted.float()


def test_requests_inside_and_outside_of_inference_mode(planted):
    speculative = drafting()
    with torch.inference_mode():
        ids = torch.tensor([PROMPT])
        inside = planted.generate(ids, custom_generate=speculative, **GREEDY)
    outside = planted.generate(IDS, custom_generate=speculative, **GREEDY)
    assert torch.equal(inside, outside)


# Outputs


def test_scores_and_logits_are_those_of_plain_generate(model):
    wanted = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "repetition_penalty": 1.3}
    ours = model.generate(IDS, custom_generate=drafting(), **GREEDY, **wanted)
    plain = model.generate(IDS, **GREEDY, **wanted)

    assert type(ours) is type(plain)
    assert torch.equal(ours.sequences, plain.sequences)
    for name in ("scores", "logits"):
        mine, theirs = getattr(ours, name), getattr(plain, name)
        assert len(mine) == len(theirs) == NEW
        torch.testing.assert_close(torch.cat(mine), torch.cat(theirs), atol=1e-3, rtol=1e-4)
    assert ours.past_key_values.get_seq_length() == plain.past_key_values.get_seq_length()
    assert ours.attentions is None


def test_what_is_not_asked_for_is_not_there(planted):
    ours = planted.generate(IDS, custom_generate=drafting(), return_dict_in_generate=True, **GREEDY)

    assert ours.scores is None
    assert ours.logits is None


# Stopping


class Noting(StoppingCriteria):
    def __init__(self, ends):
        self.ends, self.seen = ends, []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append((input_ids[0].tolist(), None if scores is None else len(scores)))
        return torch.tensor([self.ends(input_ids)])


def test_criteria_are_asked_after_every_token_with_what_plain_generate_shows_them(planted):
    seen = []
    for how in ({}, {"custom_generate": drafting(plan=Plan.layers([2, 4, 7]))}):
        noting = Noting(lambda ids: ids.shape[1] == len(PROMPT) + 13)
        asked = {"return_dict_in_generate": True, "output_scores": True, **GREEDY}
        planted.generate(IDS, stopping_criteria=StoppingCriteriaList([noting]), **asked, **how)
        seen.append(noting.seen)

    assert seen[0] == seen[1]
    assert len(seen[1]) == 13


def test_no_time_means_one_token(planted):
    ours = planted.generate(IDS, custom_generate=drafting(), max_time=1e-9, **GREEDY)

    assert ours.shape[1] == len(PROMPT) + 1


def test_a_criterion_that_raises_leaves_the_model_clean(planted):
    def fail(ids):
        if ids.shape[1] > len(PROMPT) + 6:
            raise KeyError("mine")
        return False

    speculative = drafting()
    with pytest.raises(KeyError, match="mine"):
        planted.generate(
            IDS, custom_generate=speculative, stopping_criteria=StoppingCriteriaList([Noting(fail)]), **GREEDY
        )
    assert_untouched(planted)
    with pytest.raises(InputError, match="no request has come to its end"):
        speculative.stats  # noqa: B018
    assert planted.generate(IDS, custom_generate=speculative, **GREEDY).shape[1] == len(PROMPT) + NEW


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("spoken"), 0)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_stop_strings_end_the_text_where_plain_generate_ends_it(spoken):
    model, tokenizer = spoken
    plain = model.generate(IDS, **GREEDY)
    pieces = [tokenizer.decode(token) for token in plain[0, len(PROMPT) :].tolist()]
    common = [piece for piece in pieces[:20] if piece.isascii() and piece.strip()]
    speculative = drafting(tokenizer=tokenizer)
    for string in (common[-1], [common[-2], common[-1] + "no such"]):
        ours = model.generate(IDS, custom_generate=speculative, stop_strings=string, **GREEDY)
        theirs = model.generate(IDS, tokenizer=tokenizer, stop_strings=string, **GREEDY)
        assert torch.equal(ours, theirs)
        assert ours.shape[1] < plain.shape[1]
        assert speculative.result.text == tokenizer.decode(ours[0, len(PROMPT) :], skip_special_tokens=True)
        direct = drafting().generate(model, IDS, tokenizer=tokenizer, stop_strings=string, **GREEDY)
        usual = model.generate(IDS, custom_generate=drafting(), tokenizer=tokenizer, stop_strings=string, **GREEDY)
        assert torch.equal(usual, theirs)
        assert torch.equal(direct, theirs)


def test_stop_strings_need_a_tokenizer(spoken):
    model, tokenizer = spoken
    with pytest.raises(InputError, match=r"SelfSpeculative\(tokenizer=tokenizer\)"):
        model.generate(IDS, custom_generate=drafting(), stop_strings="x", **GREEDY)
    with pytest.raises(InputError, match="stop_strings must be one text or several"):
        model.generate(IDS, custom_generate=drafting(tokenizer=tokenizer), stop_strings=[""], **GREEDY)


# Streaming


class Recording(BaseStreamer):
    def __init__(self, fails_after=None):
        self.puts, self.ended, self.fails_after = [], 0, fails_after

    def put(self, value):
        self.puts.append((tuple(value.shape), value.tolist()))
        if self.fails_after is not None and len(self.puts) > self.fails_after:
            raise OSError("hung up")

    def end(self):
        self.ended += 1


def test_a_streamer_gets_what_plain_generate_gives_it(planted):
    plain, ours, direct, usual = Recording(), Recording(), Recording(), Recording()
    planted.generate(IDS, streamer=plain, **GREEDY)
    planted.generate(IDS, custom_generate=drafting(streamer=ours), **GREEDY)
    drafting().generate(planted, IDS, streamer=direct, **GREEDY)
    planted.generate(IDS, custom_generate=drafting(), streamer=usual, **GREEDY)

    assert usual.puts == ours.puts == direct.puts == plain.puts
    assert usual.ended == ours.ended == direct.ended == plain.ended == 1
    with pytest.raises(InputError, match="one streamer is given to"):
        planted.generate(IDS, custom_generate=drafting(streamer=ours), streamer=usual, **GREEDY)


@pytest.mark.parametrize("after", [0, 1, 8])
def test_a_streamer_that_raises_leaves_the_model_clean(planted, after):
    cache = DynamicCache(config=planted.config)
    with pytest.raises(OSError, match="hung up"):
        planted.generate(IDS, custom_generate=drafting(streamer=Recording(after)), past_key_values=cache, **GREEDY)
    assert_untouched(planted)
    assert cache.get_seq_length() == 0
    assert torch.equal(planted.generate(IDS, custom_generate=drafting(), **GREEDY), planted.generate(IDS, **GREEDY))


# Padding


@pytest.mark.parametrize("padding", [1, 5, 20])
def test_left_padding_is_put_back(model, padding):
    ids = torch.cat([torch.zeros(1, padding, dtype=torch.long), IDS], dim=1)
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) >= padding).long()[None]}
    # The penalty and the n-grams count the padding in plain decoding too.
    arguments = {**inputs, **GREEDY, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3}

    assert torch.equal(model.generate(custom_generate=drafting(), **arguments), model.generate(**arguments))


@pytest.mark.parametrize("mask", [[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 0]])
def test_other_masks_are_refused(planted, mask):
    inputs = {"input_ids": IDS[:, :4], "attention_mask": torch.tensor([mask])}
    with pytest.raises(InputError, match="zeros at the left only"):
        planted.generate(custom_generate=drafting(), **inputs, **GREEDY)


# A cache that goes on


def chat(model, speculative, turns, **arguments):
    """Several turns over one cache; what is said, and what the cache holds at the end."""
    cache = DynamicCache(config=model.config)
    ids = IDS
    for number, turn in enumerate(turns):
        ids = torch.cat([ids, torch.tensor([turn])], dim=1)
        # Plain decoding takes a turn in between.
        how = {"custom_generate": speculative} if speculative and number != 2 else {}
        ids = model.generate(ids, past_key_values=cache, do_sample=False, max_new_tokens=9, **arguments, **how)
    return ids, cache


TURNS = ([3, 4, 5], [9], [20, 21, 22, 23], [6, 7])


def test_a_chat_goes_on_with_the_same_cache(model):
    plain, theirs = chat(model, None, TURNS, repetition_penalty=1.2)
    ours, mine = chat(model, drafting(), TURNS, repetition_penalty=1.2)

    assert torch.equal(ours, plain)
    assert mine.get_seq_length() == theirs.get_seq_length() == ours.shape[1] - 1
    for one, other in zip(mine.layers, theirs.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(one.values, other.values, atol=1e-4, rtol=1e-4)


def test_cached_tokens_are_not_run_again(planted):
    cache = DynamicCache(config=planted.config)
    first = planted.generate(IDS, past_key_values=cache, **GREEDY)
    passes = []
    handle = planted.model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        speculative = drafting(tree="none")
        # Before the object knows the model it tests itself, over few tokens.
        planted.generate(first, custom_generate=speculative, past_key_values=cache, **GREEDY)
    finally:
        handle.remove()
    assert max(passes) < first.shape[1]


def test_only_the_new_tokens_with_a_mask_for_all(model):
    outputs = []
    for how in ({}, {"custom_generate": drafting()}):
        cache = DynamicCache(config=model.config)
        held = model.generate(IDS, past_key_values=cache, do_sample=False, max_new_tokens=9)
        new = torch.cat([held[:, -1:], torch.tensor([[3, 4]])], dim=1)
        mask = torch.ones(1, cache.get_seq_length() + 3, dtype=torch.long)
        arguments = {"attention_mask": mask, "past_key_values": cache, "repetition_penalty": 1.3, **GREEDY}
        outputs.append((model.generate(new, **arguments, **how), cache.get_seq_length()))

    assert torch.equal(outputs[0][0], outputs[1][0])
    assert outputs[0][1] == outputs[1][1]


def test_a_padded_prompt_with_a_cache(model):
    outputs = []
    for how in ({}, {"custom_generate": drafting()}):
        cache = DynamicCache(config=model.config)
        ids, padding = torch.cat([torch.zeros(1, 3, dtype=torch.long), IDS], dim=1), 3
        for _ in range(3):
            mask = (torch.arange(ids.shape[1]) >= padding).long()[None]
            ids = model.generate(
                ids, attention_mask=mask, past_key_values=cache, **{**GREEDY, "max_new_tokens": 7}, **how
            )
            ids = torch.cat([ids, torch.tensor([[31, 32]])], dim=1)
        outputs.append((ids, cache.get_seq_length()))

    assert torch.equal(outputs[0][0], outputs[1][0])
    assert outputs[0][1] == outputs[1][1]


# Sampling


def test_a_seed_repeats_a_text(planted):
    sampled = {"do_sample": True, "temperature": 0.8, "top_k": 20, "max_new_tokens": NEW}
    texts = [planted.generate(IDS, custom_generate=drafting(seed=seed), **sampled).tolist() for seed in (3, 3, 4)]
    plain = planted.generate(IDS, custom_generate=SelfSpeculative(method="vanilla", seed=3), **sampled).tolist()

    assert texts[0] == texts[1] == plain
    assert texts[0] != texts[2]


def test_without_a_seed_torchs_generator_decides(planted):
    sampled = {"do_sample": True, "max_new_tokens": 12}
    texts = []
    with torch.random.fork_rng(devices=[]):
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            # Lengths and plans are decided by measured time here, and make no difference.
            searching = SelfSpeculative(interval=2, fallback=False)
            texts.append(planted.generate(IDS, custom_generate=searching, **sampled).tolist())

    assert texts[0] == texts[1] != texts[2]


def test_warpers_rule_tokens_out(planted):
    greedy = planted.generate(IDS, **GREEDY)
    ours = planted.generate(IDS, custom_generate=drafting(), do_sample=True, top_k=1, max_new_tokens=NEW)

    assert torch.equal(ours, greedy)


class Only(LogitsProcessor):
    def __call__(self, input_ids, scores):
        allowed = torch.full_like(scores, float("-inf"))
        allowed[:, input_ids.shape[1] % 5 :: 11] = 0
        return scores + allowed


def test_a_callers_processor_sees_the_true_prefix(planted):
    processors = LogitsProcessorList([Only()])
    sampled = planted.generate(
        IDS, custom_generate=drafting(), logits_processor=processors, do_sample=True, max_new_tokens=NEW
    )
    assert all(token % 11 == position % 5 for position, token in enumerate(sampled[0].tolist()) if position >= 12)
    greedy = {**GREEDY, "logits_processor": processors}
    assert torch.equal(planted.generate(IDS, custom_generate=drafting(), **greedy), planted.generate(IDS, **greedy))


# Refusals

REFUSED = {
    "num_beams": {"num_beams": 2},
    "num_return_sequences": {"num_return_sequences": 2, "do_sample": True},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "output_attentions": {"output_attentions": True, "return_dict_in_generate": True},
    "output_hidden_states": {"output_hidden_states": True},
    "use_cache": {"use_cache": False},
    "cache_implementation": {"cache_implementation": "static"},
    "guidance_scale": {"guidance_scale": 1.5},
    "prefill_chunk_size": {"prefill_chunk_size": 4},
    "assistant_model": {"assistant_model": planted_model([1], layers=2)},
    "synced_gpus": {"synced_gpus": True},
    "position_ids": {"position_ids": torch.arange(3, 3 + len(PROMPT))[None]},
    "context": {"max_new_tokens": 2000},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_named_at_once(planted, name):
    passes = []
    speculative = drafting()
    planted.generate(IDS, custom_generate=speculative, **GREEDY)
    handle = planted.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        with pytest.raises(InputError, match=name):
            planted.generate(IDS, custom_generate=speculative, **{**GREEDY, **REFUSED[name]})
    finally:
        handle.remove()
    assert not passes


def test_batches_and_embeddings_are_refused(planted):
    with pytest.raises(InputError, match="one text"):
        planted.generate(IDS.repeat(2, 1), custom_generate=drafting(), **GREEDY)
    with pytest.raises(InputError, match="inputs_embeds"):
        planted.generate(inputs_embeds=planted.get_input_embeddings()(IDS), custom_generate=drafting(), **GREEDY)


def test_static_caches_and_full_ones_are_refused(planted):
    cache = StaticCache(config=planted.config, max_cache_len=100)
    with pytest.raises(InputError, match="StaticCache"):
        planted.generate(IDS, custom_generate=drafting(), past_key_values=cache, **GREEDY)
    cache = DynamicCache(config=planted.config)
    planted.generate(IDS, past_key_values=cache, **GREEDY)
    with pytest.raises(InputError, match="nothing is left to run"):
        planted.generate(IDS, custom_generate=drafting(), past_key_values=cache, **GREEDY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "conflayer"}, "did you mean 'conflayers'"),
        ({"draft_lenght": 3}, "draft_lenght"),
        ({"seed": "3"}, "seed must be a whole number"),
        ({"acceptance": "all"}, "acceptance must be"),
        ({"task": 3}, "task must come from Llm.task"),
    ],
)
def test_options_are_checked_when_the_object_is_made(options, message):
    with pytest.raises(InputError, match=message):
        SelfSpeculative(**options)


def test_a_seed_without_sampling_is_refused(planted):
    with pytest.raises(InputError, match="seed needs sampling"):
        planted.generate(IDS, custom_generate=drafting(seed=1), **GREEDY)


def test_training_mode_is_refused(planted):
    planted.train()
    try:
        with pytest.raises(InputError, match=r"model\.eval\(\)"):
            planted.generate(IDS, custom_generate=drafting(), **GREEDY)
    finally:
        planted.eval()


def test_two_threads_do_not_share_a_model(planted):
    speculative = drafting()
    planted.generate(IDS, custom_generate=speculative, **GREEDY)
    errors = []

    class Second(Recording):
        def put(self, value):
            if not errors:
                thread = threading.Thread(target=self.intrude)
                thread.start()
                thread.join()

        def intrude(self):
            try:
                planted.generate(IDS, custom_generate=drafting(), **GREEDY)
            except InputError as error:
                errors.append(str(error))

    ours = planted.generate(IDS, custom_generate=drafting(streamer=Second()), **GREEDY)
    assert "already generating" in errors[0]
    assert torch.equal(ours, planted.generate(IDS, **GREEDY))


def test_it_is_exported_lazily():
    assert conflayers.SelfSpeculative is SelfSpeculative
