"""`conflayers methods`: what there is."""

from rich.table import Table

from conflayers.cli.arguments import Json
from conflayers.cli.console import out, print_json


def run(as_json: Json = False) -> None:
    """List the methods with their options."""
    from conflayers.methods import DRAFTER_OPTIONS, METHODS

    options = {name: {**entry.options, **(DRAFTER_OPTIONS if entry.drafts else {})} for name, entry in METHODS.items()}
    if as_json:
        rows = [
            {"name": name, "summary": entry.summary, "source": entry.source, "options": options[name]}
            for name, entry in METHODS.items()
        ]
        print_json({"methods": rows})
        return
    for name, entry in METHODS.items():
        source = f" ({entry.source})" if entry.source else ""
        out().print(f"{name}: {entry.summary}{source}")
        listed = Table(box=None, show_header=False, padding=(0, 2))
        for option, meaning in options[name].items():
            listed.add_row(option, meaning)
        out().print(listed, soft_wrap=False)
