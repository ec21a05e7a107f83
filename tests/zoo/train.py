"""Train the zoo: small Llama models on which skipping layers can win, and one on which it cannot.

    python tests/zoo/train.py [NAME ...]      all of them without a name

Everything is made from the standard library's source with fixed seeds. The models are trained with layer dropout (as in
LayerSkip, arXiv 2404.16710, section 4.1, but with a rate drawn anew for every step, the whole model now and then, and
the same rate for every layer that is ever left out), so that the whole model and much smaller parts of it all learn
the task; the control is trained without.
"""

import json
import math
import random
import sys
import time
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent))
import corpus

HERE = Path(__file__).parent
CONTEXT = 256


@dataclass(frozen=True)
class Recipe:
    """One model of the zoo.

    Attributes:
        dropout: between which the rate of layer dropout is drawn at each step. None for no dropout.
        always: layers from the first on that always run, as the last one does.
        whole: share of the steps that train the whole model.
        batch: texts of 256 tokens a step.
    """

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    steps: int
    dropout: tuple[float, float] | None
    always: int = 2
    whole: float = 0.125
    batch: int = 16
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    seed: int = 2604


ZOO = (
    Recipe("dropout-16", 16, 128, 256, 4, 2, steps=6000, dropout=(0.5, 0.95)),
    Recipe("dropout-24", 24, 96, 192, 3, 1, steps=6000, dropout=(0.5, 0.95), always=3),
    Recipe("control-16", 16, 128, 256, 4, 2, steps=800, dropout=None),
)


def make(recipe: Recipe) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=corpus.VOCABULARY,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.hidden // recipe.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    # Residual branches start small in deep models, as in GPT-2.
    for layer in model.model.layers:
        for branch in (layer.self_attn.o_proj, layer.mlp.down_proj):
            branch.weight.data.div_(math.sqrt(2 * recipe.layers))
    return model


def kept(recipe: Recipe, draw: random.Random) -> list[int]:
    """The layers that run in one step."""
    rate = 0.0
    if recipe.dropout is not None and draw.random() >= recipe.whole:
        rate = draw.uniform(*recipe.dropout)
    inner = range(recipe.always, recipe.layers - 1)
    return [*range(recipe.always), *(layer for layer in inner if draw.random() >= rate), recipe.layers - 1]


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """Train and save one model; what its card says of the training."""
    model = make(recipe)
    layers = list(model.model.layers)
    text = torch.tensor(list(chain.from_iterable(corpus.encode(tokenizer, held_out=False))))
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, recipe))
    draw, places = random.Random(recipe.seed), torch.Generator().manual_seed(recipe.seed)
    begun, recent = time.perf_counter(), []
    for step in range(recipe.steps):
        starts = torch.randint(len(text) - CONTEXT, (recipe.batch,), generator=places)
        ids = torch.stack([text[start : start + CONTEXT] for start in starts])
        model.model.layers = nn.ModuleList(layers[at] for at in kept(recipe, draw))
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = time.perf_counter() - begun
            speed = (step + 1) * ids.numel() / seconds
            print(f"{recipe.name} step {step + 1} loss {sum(recent[-50:]) / 50:.3f}, {speed:.0f} tokens/s", flush=True)
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            model.model.layers = nn.ModuleList(layers)
            save(model, tokenizer, HERE / recipe.name)
    return {
        **asdict(recipe),
        "parameters": model.num_parameters(),
        "training_tokens": recipe.steps * recipe.batch * CONTEXT,
        "corpus_tokens": len(text),
        "seconds": round(time.perf_counter() - begun),
    }


def _warm_cosine(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / (recipe.steps - recipe.warmup)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the weights in bfloat16, as they are kept."""
    # The head is the embedding, and is kept once.
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items() if name != "lm_head.weight"}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)


def main(names: list[str]) -> None:
    """Train the models of these names, all without any."""
    known = {recipe.name: recipe for recipe in ZOO}
    if unknown := set(names) - set(known):
        raise SystemExit(f"no model {', '.join(sorted(unknown))} in the zoo; there are: {', '.join(known)}")
    tokenizer = corpus.train_tokenizer()
    for name in names or known:
        facts = train(known[name], tokenizer)
        (HERE / name / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
