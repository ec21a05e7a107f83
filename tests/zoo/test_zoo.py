"""The trained models as regression tests: what skipping keeps on them must not fall by more than noise."""

import json
import sys
from functools import cache

import pytest
from zoo import corpus
from zoo.card import HERE, METHODS, NAMES, PROMPTS, acceptance, agreements, continued, prompts, readable, skip_sets

import conflayers
from conflayers.api import Llm
from conflayers.plan import Plan

# Rounding differs between machines, and a near-tie that falls the other way changes the rest of a text.
SIGMAS = 3.0
MOST_BYTES = 16_000_000
# The Python whose library the models were trained on.
MADE_WITH = (3, 11)

each_model = pytest.mark.parametrize("name", NAMES)


@cache
def model(name: str) -> Llm:
    return conflayers.load(str(HERE / name), dtype="float32")


@cache
def card(name: str) -> dict:
    return json.loads((HERE / name / "card.json").read_text())


def noise(rate: float, count: int) -> float:
    return SIGMAS * (max(rate * (1 - rate), 0.01) / max(count, 1)) ** 0.5


@each_model
def test_agreement_of_plain_skipping_is_that_of_the_card(name):
    texts = continued(model(name), prompts()[:PROMPTS])
    sets = skip_sets(model(name).body.layers)
    for which, found in zip(sets, agreements(model(name), texts, list(map(Plan.layers, sets.values()))), strict=True):
        recorded = card(name)["agreement"][which]
        assert abs(found - recorded) < noise(recorded, card(name)["agreement_tokens"]), which


@pytest.mark.parametrize("method", METHODS)
@each_model
def test_no_method_accepts_less_than_it_did(name, method):
    drafted, accepted = acceptance(model(name), **METHODS[method])
    drafted_before, accepted_before = card(name)["acceptance"][method]

    assert (drafted > 0) == (drafted_before > 0)
    if drafted:
        before = accepted_before / drafted_before
        # Tokens of a chain stand or fall together.
        assert accepted / drafted > before - noise(before, drafted / 4)


def test_the_dropout_models_have_layers_to_spare_and_the_control_has_not():
    kept = {name: card(name)["agreement"]["all but three and the last two"] for name in NAMES}

    assert kept["dropout-16"] > 0.85
    assert kept["dropout-24"] > 0.85
    assert kept["control-16"] < 0.5


@each_model
def test_layers_to_spare_are_not_idle(name):
    assert card(name)["least_loss"] > card(name)["held_out_loss"] + 0.05


@each_model
def test_cards_tell_the_training(name):
    training = json.loads((HERE / name / "training.json").read_text())

    assert card(name)["training"] == training
    assert (HERE / name / "README.md").read_text() == readable(card(name))


@each_model
def test_texts_are_those_of_plain_decoding(name):
    task = model(name).task("conflayers")
    for prompt in prompts()[-4:]:
        plain = model(name).generate(prompt, method="vanilla", max_new_tokens=96)
        assert model(name).generate(prompt, task=task, max_new_tokens=96).token_ids == plain.token_ids


def test_the_weights_are_small_and_their_size_is_known():
    files = [path for name in NAMES for path in (HERE / name).iterdir()]

    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    for name in NAMES:
        assert sum(p.numel() for p in model(name).model.parameters()) == card(name)["training"]["parameters"]


def test_held_out_prompts_come_from_files_that_the_training_left_out():
    lines = [json.loads(line) for line in (HERE / "held_out.jsonl").read_text().splitlines()]
    assert len(lines) >= 50
    assert len(set(prompts())) == len(lines)

    left_out, learnt = (list(corpus.texts(held_out=which)) for which in (True, False))
    for line in lines if sys.version_info[:2] == MADE_WITH else ():
        assert not any(line["prompt"] in text for text in learnt), line["source"]
    # Other versions of Python lack some of the files, or have them changed or elsewhere.
    assert sum(any(line["prompt"] in text for text in left_out) for line in lines) > len(lines) / 2
