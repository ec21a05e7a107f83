"""What a draft step spends beside its matrix products: passes over one token, in every precision, taken apart.

    python benchmarks/draft_step.py MODEL [--dtype bfloat16] [--threads N] [--context 100]

The best of many passes in turns. For passes that are compiled as a whole, which tell what they spend.
"""

import json
import time

from given import given, settings, text

from conflayers.plan import FULL, WHOLE

TURNS = 60


def main() -> None:
    arguments, body = given(__doc__, {"context": 100})
    body.reserve(arguments.context + 1)
    body.forward(text(body, arguments.context), rows=1)
    best: dict[str, tuple[float, dict[str, tuple[float, int]]]] = {}
    for _ in range(TURNS):
        for precision in (WHOLE, *body.precisions):
            with body.running(FULL.at(precision)), body.watched() as stages:
                begun = time.perf_counter()
                body.forward([7])
                seconds = time.perf_counter() - begun
            body.rollback(arguments.context)
            if not stages:
                raise SystemExit("passes of this model are not compiled as a whole here: see `conflayers check`")
            if precision not in best or seconds < best[precision][0]:
                best[precision] = (seconds, stages)
    rows = []
    for precision, (seconds, stages) in best.items():
        parts = {name: round(1e3 * spent, 3) for name, (spent, _) in stages.items()}
        row = {"precision": precision, "ms": round(1e3 * seconds, 3), **parts}
        row["beside_products"] = round(row["ms"] - row["products"], 3)
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(json.dumps(settings(arguments) | {"rows": rows}))


if __name__ == "__main__":
    main()
