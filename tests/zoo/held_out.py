"""Prompts from the files that the training never saw, as a file of the zoo: other versions of Python have other files.

python tests/zoo/held_out.py
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
import corpus

HERE = Path(__file__).parent
TOKENS = 128
PER_FILE = 3
MOST = 64


def main() -> None:
    """Write held_out.jsonl: a few stretches of 128 tokens of every file, none of them its beginning."""
    tokenizer = AutoTokenizer.from_pretrained(HERE / "dropout-16")
    learnt, found = list(corpus.texts(held_out=False)), []
    for path in corpus.files(held_out=True):
        text = path.read_text(encoding="utf-8", errors="replace")
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        stretches = range(2 * TOKENS, len(ids) - 3 * TOKENS, max((len(ids) - 5 * TOKENS) // PER_FILE, 3 * TOKENS))
        for turn, start in enumerate(list(stretches)[:PER_FILE]):
            prompt = tokenizer.decode(ids[start : start + TOKENS])
            # Some modules have paragraphs of others.
            if not any(prompt in text for text in learnt):
                found.append((turn, {"prompt": prompt, "source": f"Python's {path.name}, token {start}"}))
    # In turns, so that neighbours in the list come from different files.
    found.sort(key=lambda one: one[0])
    lines = [json.dumps(one) for _, one in found[:MOST]]
    (HERE / "held_out.jsonl").write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} prompts")


if __name__ == "__main__":
    main()
