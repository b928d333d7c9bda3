"""space: what a volume takes on the device, and where that goes."""
from typing import TYPE_CHECKING

import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, State, command, emit, fields
from cdp.cli.refs import volume_only
from cdp.text import sizes as units

if TYPE_CHECKING:
    from cdp.views import SpaceView


@command(cli, "space", examples=[
    ("cdp space web", "by what, how much more a day, and when the device is full"),
    ("cdp space web --json", "the same in bytes and days"),
], exit_codes=VOLUME_EXITS)
@click.argument("volume")
def space(state: State, volume: str) -> None:
    """What does a volume take, and how long will that fit?

    Counted is what its files take on the device. The forecast takes the growth of the last day, or of what history
    there is.
    """
    location = volume_only(volume, "space")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.space()
    emit(state, got, fields(f"{location.text}: {units.approx_size(got['total_bytes'])} on the device", _pairs(got)))


def _pairs(got: "SpaceView") -> list[tuple[str, str]]:
    ahead = got["log_ahead_bytes"]
    pairs = [("log", units.approx_size(got["log_bytes"]) + (
        f", {units.approx_size(ahead)} of it allocated ahead" if ahead else ""))]
    for name, size in (("index", got["index_bytes"]), ("base", got["base_bytes"]), ("images", got["images_bytes"]),
                       ("catalog", got["catalog_bytes"]), ("reserve", got["reserve_bytes"]),
                       ("other", got["other_bytes"])):
        pairs.append((name, units.approx_size(size)))
    limit = got["limit_bytes"]
    pairs.append(("history", units.approx_size(got["history_bytes"]) + (
        "" if limit is None else f" of {units.approx_size(limit)}, the limit")))
    pairs.append(("growth", "not known yet" if got["bytes_a_day"] is None else
                  f"{units.approx_size(got['bytes_a_day'])} a day"))
    if got["levels_off_bytes"] is not None:
        pairs.append(("levels off", f"at about {units.approx_size(got['levels_off_bytes'])}, by the policy"))
    if limit is not None:
        pairs.append(("limit met", _when(got["days_to_limit"], got["bytes_a_day"])))
    free = units.approx_size(got["device_free_bytes"])
    pairs += [("device", f"{free} free of {units.approx_size(got['device_bytes'])}"),
              ("full", _when(got["days_to_full"], got["bytes_a_day"]))]
    return pairs


def _when(days: float | None, rate: int | None) -> str:
    if days is None:
        return "not known yet" if rate is None else "never at this rate"
    if not days:
        return "now"
    return f"in {days:.1f} days" if days < 100 else f"in {days:.0f} days"
