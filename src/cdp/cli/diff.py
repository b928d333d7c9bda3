"""diff: what differs between two moments of a volume."""
import json
from collections import Counter
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import POINT_EXITS, State, command, emit, note
from cdp.cli.files import partition_option, printable
from cdp.cli.output import put
from cdp.cli.refs import split, volume_and_point
from cdp.cli.restore import parse_range
from cdp.service.files_at import entry_view, files_at, ranges, text_of
from cdp.text.sizes import approx_size
from cdp.views import Service
from cdpcore.base.errors import InvalidRequest


@command(cli, "diff", examples=[
    ("cdp diff web@-1h web", "the ranges whose content is not what it was an hour ago"),
    ("cdp diff web@before-upgrade web@after-upgrade --count", "how many, and their bytes"),
    ("cdp diff web@-1d web --written", "what was written, also where the same came back"),
    ("cdp diff web@-1h web --range 0:1M --json", "in the first MiB; one JSON object a line"),
    ("cdp diff web@-1h web --files --path /srv", "the files that were added, removed and changed there"),
], exit_codes=POINT_EXITS)
@click.argument("first", metavar="VOLUME@A")
@click.argument("second", metavar="VOLUME[@B]", required=False)
@click.option("--written", is_flag=True, help="What was written between the two, not only what differs.")
@click.option("--range", "byte_range", metavar="OFF:LEN", help="Only in these bytes.")
@click.option("--count", is_flag=True, help="Only how many ranges there are, and their bytes.")
@click.option("--files", is_flag=True, help="The files that were added, removed or changed.")
@click.option("--path", metavar="FOLDER", help="With --files: only below this folder of the file system.")
@partition_option
def diff(state: State, first: str, second: str | None, written: bool, byte_range: str | None, count: bool,
         files: bool, path: str | None, partition: int | None) -> None:
    """Show what differs between two moments.

    Without @B: between A and now. Both may be any two moments, also on two sides of a restore. What was written between
    them is found by the index, then read and compared, to the sector; data that is zeros, zeros and holes are the same
    content. KIND is that of the second moment. With --json the result is one object a line.

    With --files: what differs between the files of the two moments ('cdp files --help' says what can be read). A file
    is changed where its metadata is, or the blocks of its data are ('data': without its times: something else wrote
    there).
    """
    if files and (written or byte_range or count) or not files and (path or partition):
        raise InvalidRequest("--path and --partition go with --files; --written, --range and --count do not",
                             "choose between files and ranges")
    location, a = volume_and_point(first, "diff")
    other = split(second or first)
    if other.volume != split(first).volume:
        raise InvalidRequest("'cdp diff' compares two moments of one volume",
                             f"write, for instance, {quote(first)} {quote(split(first).volume)}@now")
    b = (other.point or "now") if second else "now"
    offset, length = parse_range(byte_range) if byte_range else (0, None)
    from cdp.service.connect import connect

    counts, sizes = Counter[str](), Counter[str]()
    with connect(location, state.settings) as service:
        moments = [service.explain(point)["resolved"] for point in (a, b)]
        if files:
            _files(state, service, moments[0]["seq"], moments[1]["seq"], path or "/", partition)
            return
        for found in ranges(service, moments[0]["seq"], moments[1]["seq"], offset, length, not written):
            counts[found["kind"]] += 1
            sizes[found["kind"]] += found["length"]
            if count:
                continue
            if state.as_json:
                put(json.dumps(found))
            else:
                if counts.total() == 1:
                    put(f"{'OFFSET':>16}  {'LENGTH':>12}  KIND")
                put(f"{found['offset']:>16}  {approx_size(found['length']):>12}  {found['kind']}")
    text = f"{counts.total()} ranges, {approx_size(sizes.total())}"
    between = f"between #{moments[0]['seq']} and #{moments[1]['seq']}"
    if count:
        emit(state, {"a": moments[0], "b": moments[1], "compared": not written, "ranges": counts.total(),
                     "bytes": sizes.total(), "by_kind": {kind: {"ranges": n, "bytes": sizes[kind]}
                                                         for kind, n in counts.items()}},
             f"{text} {'written' if written else 'differ'} {between}")
    elif not state.as_json:
        note(f"{text} {'were written' if written else 'differ'} {between}")


def _files(state: State, service: Service, a: int, b: int, path: str, partition: int | None) -> None:
    from cdp.files.changes import changes

    counts = Counter[str]()
    with files_at(service, a, partition) as before, files_at(service, b, partition) as after:
        for one in changes(before, after, path, ((r["offset"], r["length"]) for r in ranges(service, a, b))):
            counts[one.kind] += 1
            if state.as_json:
                put(json.dumps({"change": one.kind, "path": text_of(one.path), "what": list(one.what),
                                "before": one.before and entry_view(one.before),
                                "after": one.after and entry_view(one.after)}))
            else:
                what = f"  ({', '.join(one.what)})" if one.what else ""
                put(f"{one.kind:<8} {printable(one.path)}{what}")
    if not state.as_json:
        note(f"{counts['added']} added, {counts['removed']} removed, {counts['changed']} changed between #{a} and #{b}")
