"""What each model of the zoo can do, measured and written to its card: card.json for the tests, README.md to be read.

python tests/zoo/card.py [NAME ...]
"""

import json
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import corpus
from steady import steadily

import conflayers
from conflayers.api import Llm
from conflayers.methods import build_method
from conflayers.plan import Plan
from conflayers.search.data import read_prompts
from conflayers.selectors.conflayers import ConfLayers
from conflayers.selectors.draft_verify import first_probes

HERE = Path(__file__).parent
NAMES = ("dropout-16", "dropout-24", "control-16")
# Prompts, and tokens generated after each, that agreements and acceptances are measured on.
PROMPTS, NEW_TOKENS = 12, 64
# Tokens of a stretch of text in training.
CONTEXT = 256
# Drafts of four tokens whatever the machine's times are: acceptance is then a property of weights and method alone.
CHAIN = {"draft_length": 4, "tree": "none"}
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {"method": "uniform"},
    "random": {"method": "random"},
    "rule, lambda 0": {"method": "conflayers", "variant": "rule", "lam": 0.0},
    "clasp": {"method": "clasp", "interval": 16},
    "cosine": {"method": "cosine"},
    "swift": {"method": "swift", "bayes_interval": 0, "max_iterations": 100},
    "conflayers": {"method": "conflayers"},
    # With its own window of 100 tokens it would select nothing in texts as short as these.
    "conflayers, paper": {"method": "conflayers", "variant": "paper", "context_window": 16, "interval": 4},
    "knapspec": {"method": "knapspec", "interval": 16},
    "draft-verify": {"method": "draft-verify"},
}
DROPOUT = (
    "with layer dropout: one step in {one_in} trains\nall of it; every other step draws a rate from {low} to {high}, "
    "and leaves out each of the layers {first} to {last} with it"
)
CONTROL = "without layer dropout, as a control"


@dataclass(frozen=True)
class Text:
    """A prompt with the whole model's greedy continuation, and where that begins."""

    tokens: list[int]
    start: int


def prompts() -> list[str]:
    """The held-out prompts."""
    return list(read_prompts(HERE / "held_out.jsonl").prompts)


def continued(llm: Llm, given: Sequence[str], new_tokens: int = NEW_TOKENS) -> list[Text]:
    """Prompts, continued greedily."""
    found = []
    for prompt in given:
        ids = llm.encode(prompt)
        found.append(Text([*ids, *llm.generate(ids, method="vanilla", max_new_tokens=new_tokens).token_ids], len(ids)))
    return found


def agreements(llm: Llm, texts: list[Text], plans: Sequence[Plan]) -> list[float]:
    """Share of the generated tokens that each plan's draft names, each behind the whole model's states."""
    right, seen = [0] * len(plans), 0
    for text in texts:
        llm.body.reserve(2 * len(text.tokens))
        llm.body.forward(text.tokens[:-1])
        wanted = text.tokens[text.start :]
        seen += len(wanted)
        for at, plan in enumerate(plans):
            with llm.body.running(plan):
                said = llm.body.replay(text.tokens[text.start - 1 : -1]).logits.argmax(-1).tolist()
            right[at] += sum(a == b for a, b in zip(said, wanted, strict=True))
    return [count / seen for count in right]


def skip_sets(layers: int) -> dict[str, list[int]]:
    """Sets of layers that nobody chose, as shares of the depth."""
    half = layers // 2
    return {
        "three of the first six": [1, 3, 5],
        "every second layer": list(range(1, layers - 1, 2)),
        "the middle half": list(range(layers // 4, layers // 4 + half)),
        "the later half but the last": list(range(half, layers - 1)),
        "all but three and the last two": list(range(3, layers - 2)),
        "the first half but the first": list(range(1, half)),
    }


def acceptance(llm: Llm, method: str, **options: Any) -> tuple[int, int]:
    """Tokens drafted and accepted in chains of four over the held-out prompts, by one task."""
    # Which candidate of its search is fastest, a machine would have to say; so it is one that the search begins with.
    plan = first_probes(llm.body.layers)[-1] if method == "draft-verify" else None
    task = build_method(method, llm.body.layers, plan, **options, **CHAIN)
    with steadily(llm) as clock:
        if isinstance(task.selector, ConfLayers):
            task.selector.clock = clock
        stats = [llm.generate(prompt, task=task, max_new_tokens=NEW_TOKENS).stats for prompt in prompts()[:PROMPTS]]
    return sum(one.num_draft_tokens for one in stats), sum(one.num_accepted_draft_tokens for one in stats)


def held_out_loss(folder: Path, skipped: Container[int] = (), files: int = 20) -> float:
    """Mean cross-entropy, in nats a token, over stretches of held-out files as long as the training's: four of each."""
    model, losses = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), []
    model.model.layers = nn.ModuleList(layer for at, layer in enumerate(model.model.layers) if at not in skipped)
    for ids in corpus.encode(AutoTokenizer.from_pretrained(folder), held_out=True)[:files]:
        for start in range(0, min(len(ids) - 1, 4 * CONTEXT), CONTEXT):
            row = torch.tensor([ids[start : start + CONTEXT]])
            with torch.no_grad():
                losses.append(float(model(input_ids=row, labels=row, use_cache=False).loss))
    return sum(losses) / len(losses)


def measure(folder: Path, always: int) -> dict[str, Any]:
    """Everything on the card that is not known from the training; the first `always` layers were never left out."""
    llm = conflayers.load(str(folder), dtype="float32")
    texts = continued(llm, prompts()[:PROMPTS])
    sets = skip_sets(llm.body.layers)
    kept = agreements(llm, texts, [Plan.layers(which) for which in sets.values()])
    return {
        "held_out_loss": round(held_out_loss(folder), 3),
        "least_loss": round(held_out_loss(folder, range(always, llm.body.layers - 1)), 3),
        "agreement_tokens": sum(len(text.tokens) - text.start for text in texts),
        "agreement": {name: round(value, 4) for name, value in zip(sets, kept, strict=True)},
        "acceptance": {name: acceptance(llm, **method) for name, method in METHODS.items()},
    }


def how(training: dict[str, Any]) -> str:
    """What was left out in training."""
    if training["dropout"] is None:
        return CONTROL
    low, high = training["dropout"]
    first, last, one_in = training["always"], training["layers"] - 2, round(1 / training["whole"])
    return DROPOUT.format(one_in=one_in, low=low, high=high, first=first, last=last)


def readable(card: dict[str, Any]) -> str:
    """The card to be read."""
    training, sets = card["training"], skip_sets(card["training"]["layers"])
    rows = [f"| {name} | {len(sets[name])} | {value:.3f} |" for name, value in card["agreement"].items()]
    taken = [
        f"| {name} | {drafted} | {accepted / drafted:.3f} |" if drafted else f"| {name} | 0 | decoded plainly |"
        for name, (drafted, accepted) in card["acceptance"].items()
    ]
    return (
        (HERE / "card.md.in")
        .read_text()
        .format(
            **training,
            how=how(training),
            minutes=round(training["seconds"] / 60),
            held_out_loss=card["held_out_loss"],
            least_loss=card["least_loss"],
            last=training["layers"] - 2,
            agreement_tokens=card["agreement_tokens"],
            agreement="\n".join(rows),
            acceptance="\n".join(taken),
        )
    )


def write(folder: Path, card: dict[str, Any]) -> None:
    """The card as JSON and to be read."""
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(readable(card))


def main(names: list[str]) -> None:
    """Measure the models of these names, all without any."""
    for name in names or NAMES:
        folder = HERE / name
        training = json.loads((folder / "training.json").read_text())
        card = {"training": training, **measure(folder, training["always"])}
        write(folder, card)
        print(name, json.dumps({key: value for key, value in card.items() if key != "training"}))


if __name__ == "__main__":
    main(sys.argv[1:])
