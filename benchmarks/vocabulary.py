"""What drafts that know only part of the vocabulary could name: the frequent tokens and those seen in the text so far.

Tokens are numbered in the order in which the tokenizer's training merged them, so that the first so many are the most
frequent. A token that a draft cannot name is rejected, whatever the rest of the model says.

    python benchmarks/vocabulary.py smollm2 DIR --questions FILE

DIR holds `results.json` of a `conflayers bench` over the questions in FILE, one turn each. The last line is one JSON
document.
"""

import argparse
import json
from pathlib import Path

import conflayers
from conflayers.bench.provenance import command_line, provenance
from conflayers.search.data import read_prompts

SHARES = (24, 12, 6, 3, 2)


def named(prompt: list[int], text: list[int], known: int) -> int:
    """How many of the text's tokens are among the first `known`, or came before."""
    seen, count = set(prompt), 0
    for token in text:
        count += token < known or token in seen
        seen.add(token)
    return count


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("results", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    options = parser.parse_args()
    llm = conflayers.load(options.model, dtype="bfloat16")
    records = json.loads((options.results / "results.json").read_text(encoding="utf-8"))["records"]
    texts = {one["sample"]: one["token_ids"] for one in records if one["method"] == "vanilla" and one["turn"] == 0}
    prompts = [llm.encode(prompt) for prompt in read_prompts(options.questions, len(texts)).prompts]
    tokens, rows = sum(map(len, texts.values())), []
    for share in SHARES:
        known = llm.body.vocab_size // share
        count = sum(named(prompts[sample], text, known) for sample, text in texts.items())
        rows.append({"known": known, "share_of_vocabulary": round(1 / share, 3), "named": round(count / tokens, 4)})
        print(f"{known} of {llm.body.vocab_size} tokens: {count / tokens:.1%} of the text can be named")
    found = {"model": options.model, "texts": len(texts), "tokens": tokens, "rows": rows}
    print(json.dumps(found | {"provenance": provenance(command_line())}))


if __name__ == "__main__":
    main()
