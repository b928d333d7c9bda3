"""prune: the retention policy applied now."""
import click

from cdp.cli import cli
from cdp.cli.base import WRITE_EXITS, State, command, emit, fields
from cdp.cli.explain import moment_text
from cdp.cli.refs import volume_only
from cdp.text import sizes as units


@command(cli, "prune", examples=[
    ("cdp prune web --dry-run", "what the policy would give up now"),
    ("cdp prune web", "give it up; the space is freed in the background"),
], exit_codes=WRITE_EXITS)
@click.argument("volume")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
def prune(state: State, volume: str, dry_run: bool) -> None:
    """Apply a volume's retention policy now.

    A volume that is open does that by itself, so this is needed only to have it done at once. The oldest history goes
    in whole log segments; of the rest, what no moment shows that the tiers keep. What a pin or the floor holds stays.
    There is no undo.
    """
    location = volume_only(volume, "prune")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.prune(dry_run)
    moved = got["start"]["seq"] != got["before"]["seq"]
    pairs = [("oldest", moment_text(got["start"])),
             ("freed", units.approx_size(got["freed_bytes"]) if moved else "nothing")]
    if thinned := got["moments_thinned"]:
        pairs.append(("thinned", f"{thinned} moment{'' if thinned == 1 else 's'} between kept ones"))
    pairs += [("held by", what) for what in got["held_by"]]
    emit(state, got, fields(f"{location.text}: {'would begin' if dry_run else 'begins'} at #{got['start']['seq']}",
                            pairs))
