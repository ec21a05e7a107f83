"""What passes and draft steps of a model of some shape take on a device, with random weights.

    python benchmarks/passes.py --layers 32 --hidden 4096 --inner 14336 --heads 32 --kv-heads 8 --vocabulary 128256

Weights say nothing about acceptance, but times do not depend on them. Transformers' `generate` makes as many tokens of
the same model, one pass after the other. Milliseconds, the median; the last line is one JSON document.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from conflayers import Llm
from conflayers.bench.provenance import command_line, provenance
from conflayers.plan import FULL, Plan

ROWS, TURNS, TOKENS = (1, 2, 4, 8, 16, 32), 15, 32


def built(given: argparse.Namespace) -> PreTrainedModel:
    config = LlamaConfig(
        hidden_size=given.hidden,
        intermediate_size=given.inner,
        num_hidden_layers=given.layers,
        num_attention_heads=given.heads,
        num_key_value_heads=given.kv_heads,
        vocab_size=given.vocabulary,
        max_position_embeddings=8192,
        tie_word_embeddings=given.tied,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, given.dtype))
    try:
        with torch.device(given.device):
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def milliseconds(run: Callable[[], object]) -> float:
    run()
    found = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        run()
        found.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(found)


def measured(llm: Llm, context: int) -> dict[str, object]:
    """Passes behind a text of `context` tokens."""
    body, text = llm.body, [token * 31 % llm.body.vocab_size for token in range(context)]
    body.reserve(context + 2 * max(ROWS))
    body.forward(text, rows=1)

    def step(rows: int, plan: Plan = FULL) -> float:
        body.prepare(plan)

        def run() -> None:
            with body.running(plan):
                float(body.forward(text[:rows]).logits[0, 0])  # waits for the device
            body.rollback(context)

        return milliseconds(run)

    drafts = {precision: step(1, FULL.at(precision)) for precision in body.precisions}
    if body.layers > 2:
        drafts["half of the layers"] = step(1, Plan.layers(range(1, body.layers - 1, 2)))
    return {"context": context, "rows": {rows: step(rows) for rows in ROWS}, "drafts": drafts}


def generated(model: PreTrainedModel) -> float:
    """Milliseconds of a token of transformers' `generate`."""
    prompt = torch.arange(100, device=model.device)[None]
    options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}
    model.generate(prompt, **options)
    begun = time.perf_counter()
    model.generate(prompt, **options).tolist()
    return (time.perf_counter() - begun) * 1e3 / TOKENS


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 30, "hidden": 576, "inner": 1536, "heads": 9, "kv-heads": 3, "vocabulary": 49152}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tied", action="store_true", help="the head is the embedding")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.layers < 1:
        parser.error(f"--layers must be 1 or more, not {given.layers}")
    model = built(given)
    begun = time.perf_counter()
    llm = Llm(model)
    found = {
        "shape": vars(given),
        "ready_seconds": time.perf_counter() - begun,
        "steady": llm.body.steady,
        "generate_ms": generated(model),
        "passes": [measured(llm, context) for context in (100, 1000)],
        "quick": llm.body.quick(),
        "provenance": provenance(command_line()),
    }
    print(f"transformers `generate`: {found['generate_ms']:.2f} ms a token; bit for bit: {found['steady']}")
    for passes in found["passes"]:
        print(f"behind {passes['context']} tokens, a pass over", end=" ")
        print(", ".join(f"{rows}: {ms:.2f}" for rows, ms in passes["rows"].items()), end="; ")
        print("a draft step with", ", ".join(f"{name}: {ms:.2f}" for name, ms in passes["drafts"].items()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
