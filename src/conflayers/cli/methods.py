"""`conflayers methods`: what there is."""

from rich.table import Table

from conflayers.cli.arguments import Json
from conflayers.cli.console import out, print_json


def run(as_json: Json = False) -> None:
    """List the methods with their options, and what `conflayers bench` knows beside them."""
    from conflayers.bench.peers import PEERS, summary
    from conflayers.bench.sweeps import SWEEPS
    from conflayers.methods import METHODS

    if as_json:
        listed = [
            {"name": name, "summary": entry.summary, "source": entry.source, "options": entry.every_option}
            for name, entry in METHODS.items()
        ]
        peers = [{"name": name, "summary": summary(name)} for name in PEERS]
        sweeps = [{"name": name, "question": one.question, "methods": one.methods} for name, one in SWEEPS.items()]
        print_json({"methods": listed, "peers": peers, "sweeps": sweeps})
        return
    for name, entry in METHODS.items():
        source = f" ({entry.source})" if entry.source else ""
        out().print(f"{name}: {entry.summary}{source}")
        out().print(_table(entry.every_option), soft_wrap=False)
    for title, rows in (
        ("beside these in `conflayers bench --methods`", {name: summary(name) for name in PEERS}),
        ("rows that `conflayers bench --sweep` adds", {name: one.question for name, one in SWEEPS.items()}),
    ):
        out().print(f"{title}:")
        out().print(_table(rows), soft_wrap=False)


def _table(meanings: dict[str, str]) -> Table:
    drawn = Table(box=None, show_header=False, padding=(0, 2))
    for name, meaning in meanings.items():
        drawn.add_row(name, meaning)
    return drawn
