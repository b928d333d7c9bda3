"""trace formats: the formats of traces that can be read."""
from cdp.cli import exits
from cdp.cli.base import State, command, emit
from cdp.cli.trace import trace
from cdp.trace.formats import FAMILIES, FORMATS


@command(trace, "formats", examples=[
    ("cdp trace formats", "names for --format"),
    ("cdp trace formats --json | jq -r '.[].name'", "for scripts"),
], exit_codes=(exits.OK, exits.USAGE))
def formats(state: State) -> None:
    """List the formats that are known.

    With what their times count from, and whether they hold data.
    """
    listed = [{"name": f.name, "title": f.title, "clock": f.clock, "data": f.has_payload} for f in FORMATS.values()]
    lines = [f"{f.name:<16}{f.clock:<10}{f.title}{', with data' if f.has_payload else ''}" for f in FORMATS.values()]
    families = "; ".join(f"{family} = {' or '.join(members)}" for family, members in FAMILIES.items())
    emit(state, listed, [*lines, f"families: {families}"])
