"""Models that see: a prompt with images is answered with the very tokens of the model's own `generate`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from lossless.families import SUPPORTED
from lossless.reference import HOOKS, assert_untouched
from lossless.test_families import PLANS, InTurn
from lossless.vision import IMAGE, QUICK, REFUSED, SLOW, Vision

from conflayers import Llm, SelfSpeculative
from conflayers.drafters.length import ConfidenceStop
from conflayers.drafters.siblings import PublishedSiblings
from conflayers.drafters.subnetwork import Subnetwork
from conflayers.errors import InputError, UnsupportedModelError
from conflayers.round import Method

NEW_TOKENS = 40
MROPE = [vision for vision in (*QUICK, *SLOW) if vision.name.startswith("qwen")]

each_model = pytest.mark.parametrize(
    "vision",
    [
        *(pytest.param(vision, id=vision.name) for vision in QUICK),
        *(pytest.param(vision, id=vision.name, marks=pytest.mark.slow) for vision in SLOW),
    ],
)
each_number = pytest.mark.parametrize("images", [0, 1, 2])


@dataclass(frozen=True)
class Reference:
    tokens: list[int]
    margin: float


@cache
def subject(vision: Vision) -> Llm:
    return Llm(vision.build())


def own(model: Any, prompt: Mapping[str, torch.Tensor]) -> Reference:
    """What the model's own `generate` says, and by how much its choices were ahead of the next best."""
    output = model.generate(
        **prompt, do_sample=False, max_new_tokens=NEW_TOKENS, return_dict_in_generate=True, output_logits=True
    )
    rows = torch.cat(output.logits)
    first, second = rows.topk(2).values.unbind(-1)
    margin = float(((first - second) / rows.abs().amax(-1)).min())
    return Reference(output.sequences[0, prompt["input_ids"].shape[1] :].tolist(), margin)


@cache
def reference(vision: Vision, images: int, seed: int = 0) -> Reference:
    """From a model that has never answered anything else."""
    return own(vision.build(), vision.prompt(images, seed))


def split(prompt: Mapping[str, torch.Tensor]) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The ids, and what comes with them."""
    inputs = {name: value for name, value in prompt.items() if name not in ("input_ids", "attention_mask")}
    return prompt["input_ids"][0].tolist(), inputs


def in_turn(*, trees: bool = False) -> Method:
    """Short drafts that never stop, with another plan every round."""
    siblings = {"siblings": PublishedSiblings()} if trees else {}
    return Method("in turn", Subnetwork(ConfidenceStop(3, 0.0), **siblings), InTurn(tuple(PLANS.values())))


@each_number
@each_model
def test_the_reference_has_something_to_get_wrong(vision: Vision, images: int) -> None:
    found = reference(vision, images)
    assert len(found.tokens) == NEW_TOKENS
    assert len(set(found.tokens)) >= 8
    assert found.margin > 1e-4
    if images:
        assert found.tokens != reference(vision, images, seed=1).tokens


@each_number
@each_model
def test_chains(vision: Vision, images: int) -> None:
    result = subject(vision).generate(vision.prompt(images), task=in_turn(), max_new_tokens=NEW_TOKENS)
    assert result.token_ids == reference(vision, images).tokens
    assert result.prompt_ids == vision.prompt(images)["input_ids"][0].tolist()
    assert 0 < result.stats.num_accepted_draft_tokens < result.stats.num_draft_tokens


@each_number
@each_model
def test_trees(vision: Vision, images: int) -> None:
    llm = subject(vision)
    assert llm.body.trees
    result = llm.generate(vision.prompt(images), task=in_turn(trees=True), max_new_tokens=NEW_TOKENS)
    assert result.token_ids == reference(vision, images).tokens
    assert result.stats.num_accepted_sibling_tokens > 1


@each_model
def test_the_search_while_it_searches(vision: Vision) -> None:
    llm = subject(vision)
    options = {"interval": 2, "context_window": 8, "confidence_stop": 0.0, "max_draft_tokens": 2}
    task = llm.task("conflayers", fallback=False, **options)
    task.selector.clock = lambda: 0.0  # looks are not cut short on a slow machine
    result = llm.generate(vision.prompt(2), task=task, max_new_tokens=NEW_TOKENS)
    assert result.token_ids == reference(vision, 2).tokens
    assert task.selector.shortlist.tried.any()
    assert result.stats.num_spec_steps > 0


def hooked(model: Any) -> set[str]:
    """Modules with hooks; transformers leaves some of its own on vision towers."""
    return {name for name, module in model.named_modules() if any(getattr(module, hooks) for hooks in HOOKS)}


@each_model
def test_a_request_leaves_nothing_to_the_next(vision: Vision) -> None:
    llm = Llm(vision.build())
    # A request that got no further than its prompt.
    ids, inputs = split(vision.prompt(2, seed=1))
    llm.body.reserve(len(ids))
    llm.body.prefill(ids, inputs)
    for images, seed in ((0, 0), (1, 1), (0, 0)):
        result = llm.generate(vision.prompt(images, seed), task=in_turn(trees=True), max_new_tokens=12)
        assert result.token_ids == reference(vision, images, seed).tokens[:12], (images, seed)
    assert_untouched(llm.model.get_decoder())
    assert not any("forward" in vars(module) or module.training for module in llm.model.modules())
    fresh = vision.build()
    assert own(llm.model, vision.prompt(1)) == own(fresh, vision.prompt(1)) == reference(vision, 1)
    assert hooked(llm.model) == hooked(fresh)


@pytest.mark.parametrize("vision", MROPE[:2], ids=lambda vision: vision.name)
def test_what_the_model_noted_of_another_prompt_means_nothing(vision: Vision) -> None:
    llm = Llm(vision.build())
    own(llm.model, vision.prompt(2))
    noted = llm.model.model.rope_deltas.clone()
    assert noted.item() < 0
    for images in (0, 1):
        result = llm.generate(vision.prompt(images), task=in_turn(), max_new_tokens=12)
        assert result.token_ids == reference(vision, images).tokens[:12]
    assert torch.equal(llm.model.model.rope_deltas, noted)


@pytest.mark.parametrize("vision", MROPE[:2], ids=lambda vision: vision.name)
def test_text_goes_on_at_the_positions_after_the_image(vision: Vision) -> None:
    body = subject(vision).body
    prompt = vision.prompt(1)
    ids, inputs = split(prompt)
    following = [10, 20, 30]
    whole = {**prompt, "input_ids": torch.tensor([ids + following]), "attention_mask": None}
    whole["mm_token_type_ids"] = (whole["input_ids"] == IMAGE).int()
    with torch.no_grad():
        expected = vision.build()(**whole).logits[0]
    body.reserve(len(ids) + 3)
    last = body.prefill(ids, inputs, record=2)
    assert last.trace is not None
    assert last.trace.tokens == 2
    assert torch.allclose(last.logits[0], expected[-4], atol=1e-4)
    assert torch.allclose(body.forward(following).logits, expected[-3:], atol=1e-4)
    # The same without the image's positions, to see that they matter.
    body.rollback(len(ids))
    body._shift = 0
    assert not torch.allclose(body.forward(following).logits, expected[-3:], atol=1e-2)
    body.release()


def padded(prompt: Mapping[str, torch.Tensor], padding: int = 3) -> dict[str, torch.Tensor]:
    """As a processor pads on the left."""
    by_token = {
        name: value for name, value in prompt.items() if name in ("input_ids", "attention_mask") or "type" in name
    }
    return {**prompt, **{name: torch.nn.functional.pad(value, (padding, 0)) for name, value in by_token.items()}}


def test_padding_on_the_left_is_left_out() -> None:
    vision = QUICK[0]
    prompt = padded(vision.prompt(1))
    result = subject(vision).generate(prompt, task=in_turn(), max_new_tokens=NEW_TOKENS)
    assert result.token_ids == reference(vision, 1).tokens
    assert result.prompt_ids == vision.prompt(1)["input_ids"][0].tolist()


@each_model
def test_inside_generate_of_transformers(vision: Vision) -> None:
    model = vision.build()
    speculative = SelfSpeculative(task=in_turn(trees=True))
    for images in (1, 0):
        for prompt in (vision.prompt(images), padded(vision.prompt(images))):
            output = model.generate(**prompt, do_sample=False, max_new_tokens=16, custom_generate=speculative)
            count = prompt["input_ids"].shape[1]
            assert torch.equal(output[:, :count], prompt["input_ids"])
            assert output[0, count:].tolist() == reference(vision, images).tokens[:16]
            assert speculative.stats.num_accepted_draft_tokens > 0


def test_images_are_not_read_from_the_middle_of_a_text() -> None:
    model, prompt = QUICK[0].build(), QUICK[0].prompt(2)
    first = model.generate(**QUICK[0].prompt(1), max_new_tokens=2, return_dict_in_generate=True, do_sample=False)
    options = {"past_key_values": first.past_key_values, "do_sample": False, "max_new_tokens": 4}
    with pytest.raises(InputError, match=r"already holds .* tokens.* images can only be read from the beginning"):
        model.generate(**prompt, custom_generate=SelfSpeculative(), **options)


OTHER = {"attention_mask": None, "mm_token_type_ids": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": None}, "needs input_ids"),
        ({"input_ids": torch.ones(2, 20, dtype=torch.long)}, "a batch of 2 prompts"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long), **OTHER}, "the prompt is empty"),
        ({"input_ids": torch.tensor([[5, 500]]), **OTHER}, "token id 500 is outside"),
        ({"attention_mask": torch.tensor([[1] * 10 + [0] + [1] * 6])}, "only padding on the left"),
        ({"attention_mask": torch.ones(1, 3, dtype=torch.long)}, "3 entries for 17 input_ids"),
        ({"attention_mask": torch.zeros(1, 17, dtype=torch.long)}, "the prompt is empty"),
        ({"mm_token_type_ids": torch.ones(1, 3)}, "one entry for each of the 17 input_ids"),
        ({"pixel_values": [[0.5, 0.5]]}, "return_tensors='pt'"),
        ({"pixel_values": torch.ones(8, 96)}, "cannot take this prompt's inputs"),
        ({"image_grid_thw": torch.tensor([[1, 2, 2]])}, "cannot take this prompt's inputs"),
        ({"image_grid_thw": None}, "cannot take this prompt's inputs"),
        ({"pixel_valeus": torch.ones(1)}, "does not take pixel_valeus"),
        ({"inputs_embeds": torch.ones(1, 17, 32)}, "inputs_embeds cannot be part of a prompt"),
        ({"past_key_values": object()}, "past_key_values cannot be part of a prompt"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_next_request_is_answered(change: dict[str, Any], words: str) -> None:
    llm, prompt = subject(QUICK[0]), QUICK[0].prompt(1)
    with pytest.raises(InputError, match=words):
        llm.generate(prompt | change, max_new_tokens=4)
    assert llm.generate(prompt, method="vanilla", max_new_tokens=4).token_ids == reference(QUICK[0], 1).tokens[:4]


@pytest.mark.parametrize(("vision", "words"), REFUSED, ids=lambda value: getattr(value, "name", ""))
def test_models_that_cannot_be_driven_say_why(vision: Vision, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        Llm(vision.build())


def test_models_of_text_take_no_images() -> None:
    llm = Llm(SUPPORTED[0].build())
    with pytest.raises(InputError, match="LlamaForCausalLM does not take pixel_values"):
        llm.generate(QUICK[2].prompt(1))
    # What a tokenizer alone puts out is welcome.
    prompt = {"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]], "token_type_ids": torch.zeros(1, 3)}
    assert llm.generate(prompt, max_new_tokens=3).token_ids == llm.generate([5, 6, 7], max_new_tokens=3).token_ids


def test_ids_alone_are_not_the_prompt() -> None:
    llm = subject(QUICK[0])
    with pytest.raises(InputError, match="more than token ids: it comes with pixel_values"):
        llm.encode(QUICK[0].prompt(1))
    assert llm.encode(QUICK[0].prompt(0)) == QUICK[0].prompt(0)["input_ids"][0].tolist()
    with pytest.raises(InputError, match="go to the model as they are"):
        llm.generate(QUICK[0].prompt(1), chat=True)
