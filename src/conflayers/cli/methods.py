"""`conflayers methods`: what there is."""

from rich.table import Table

from conflayers.cli.arguments import Json
from conflayers.cli.console import out, print_json


def run(as_json: Json = False) -> None:
    """List the methods with their options."""
    from conflayers.method_options import COMMON_OPTIONS
    from conflayers.methods import DRAFTER_OPTIONS, METHODS

    common = COMMON_OPTIONS | DRAFTER_OPTIONS
    options = {name: {**(common if entry.drafts else {}), **entry.options} for name, entry in METHODS.items()}
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
