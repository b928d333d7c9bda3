"""What the formats' definitions say beyond ordinary reads and writes, line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cdp.trace import Flag, Kind, open_trace, samples
from cdpcore.base.errors import InvalidRequest

HEAD = "259,0    3        1     1.000000002  1867  "


def read(path: Path, text: str | bytes, format: str | None = None, **options: object) -> list[tuple[object, ...]]:
    """(kind, offset, length, flags) of every record."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with open_trace(path, format, **options) as trace:  # type: ignore[arg-type]
        return [
            (Kind(r["kind"]), int(r["offset_bytes"]), int(r["length_bytes"]), Flag(int(r["flags"])))
            for records in trace
            for r in records
        ]


@pytest.mark.parametrize(
    ("rwbs", "rest", "kind", "flags"),
    [
        ("R", "16 + 8 [x]", Kind.READ, Flag(0)),
        ("RA", "16 + 8 [x y]", Kind.READ, Flag.AHEAD),
        ("RSM", "16 + 8 [x]", Kind.READ, Flag.SYNC | Flag.META),
        ("W", "16 + 8 [x]", Kind.WRITE, Flag(0)),
        ("WS", "16 + 8", Kind.WRITE, Flag.SYNC),
        ("WFS", "16 + 8 [x]", Kind.WRITE, Flag.FUA | Flag.SYNC),
        ("FWFSM", "16 + 8 [x]", Kind.WRITE, Flag.PREFLUSH | Flag.FUA | Flag.SYNC | Flag.META),
        ("FWS", "0 + 0 [x]", Kind.FLUSH, Flag.SYNC),
        ("FWS", "[kworker/u24:6]", Kind.FLUSH, Flag.SYNC),
        ("FN", "[kworker/11:1H]", Kind.FLUSH, Flag(0)),
        ("F", "[x]", Kind.FLUSH, Flag(0)),
        ("FF", "[x]", Kind.FLUSH, Flag(0)),
        ("WB", "16 + 8 [x]", Kind.WRITE, Flag.PREFLUSH | Flag.FUA),
        ("WZ", "16 + 8 [x]", Kind.ZERO, Flag(0)),
        ("D", "16 + 8 [x]", Kind.TRIM, Flag(0)),
        ("DE", "16 + 8 [x]", Kind.TRIM, Flag(0)),
        ("N", "[x]", Kind.OTHER, Flag(0)),
    ],
)
def test_blkparse_letters(rwbs: str, rest: str, kind: Kind, flags: Flag, tmp_path: Path) -> None:
    ranged = kind not in (Kind.FLUSH, Kind.OTHER)
    wanted = [(kind, 8192 * ranged, 4096 * ranged, flags)]
    assert read(tmp_path / "t", f"{HEAD}D {rwbs:>3} {rest}\n") == wanted
    if kind == Kind.FLUSH:
        assert read(tmp_path / "t", f"{HEAD}C {rwbs:>3} 0 [0]\n") == wanted


def test_blkparse_events_that_are_no_requests(tmp_path: Path) -> None:
    others = [
        "A  WS 746579608 + 8 <- (253,3) 578805400",
        "P   N [x]",
        "U   N [x] 3",
        "UT  N [x] 1",
        "X   R 1000 / 1008 [x]",
        "m   N cfq13 some message, anything at all",
        "D   R 36 (12 00 00 00 24 00 ..) [sg_inq]",
        "C   R (12 00 00 00 24 00 ..) [0]",
        "M  WS 16 + 8 [x]",
        "S   R 16 + 8 [x]",
    ]
    path = tmp_path / "t"
    text = "".join(f"{HEAD}{other}\n" for other in others) + f"{HEAD}D   R 16 + 8 [x]\n"
    summary = "CPU0 (sda):\n Reads Queued:  1, 4KiB\n\nTotal (sda):\n IO unplugs:  0\n\nEvents (sda): 11 entries\n"
    assert read(path, "# a comment\n" + text + summary) == [(Kind.READ, 8192, 4096, Flag(0))]
    with open_trace(path) as trace:
        assert sum(map(len, trace)) == 1 and trace.tally.events == 11
    assert len(read(path, text + summary + text + summary)) == 2  # one output after another


def test_stage_falls_back(tmp_path: Path) -> None:
    queued, completed = f"{HEAD}Q   R 8 + 8 [x]\n", f"{HEAD}C   R 16 + 8 [0]\n"
    assert [r[1] for r in read(tmp_path / "t", queued + completed)] == [8192]
    assert [r[1] for r in read(tmp_path / "t", queued)] == [4096]
    assert read(tmp_path / "t", queued + completed, stage="D") == []


def test_spc_blanks_and_optional_fields(tmp_path: Path) -> None:
    text = "0, 303567, 3584, w, 0.000000\n1,\t55590,0,R,0.026214,7,x,,abc\n"
    assert read(tmp_path / "t", text) == [
        (Kind.WRITE, 303567 * 512, 3584, Flag(0)),
        (Kind.READ, 55590 * 512, 0, Flag(0)),
    ]


def test_fiu_process_names_with_blanks_and_long_digests(tmp_path: Path) -> None:
    text = f"10 4892 nfsd4 call back 904265560 8 W 6 0 {'0f' * 16}\n20 1 [pdflush] 16 16 R 6 0 {'AB' * 256}\n"
    assert read(tmp_path / "t", text) == [
        (Kind.WRITE, 904265560 * 512, 4096, Flag(0)),
        (Kind.READ, 8192, 8192, Flag(0)),
    ]


def test_disksim_flags_are_hexadecimal(tmp_path: Path) -> None:
    text = "0.5 0 16 8 1\n1 0 16 8 a\n1.25 0 16 8 B\n2.0000001 0 16 8 0\n"
    assert [r[0] for r in read(tmp_path / "t", text)] == [Kind.READ, Kind.WRITE, Kind.READ, Kind.WRITE]
    with open_trace(tmp_path / "t") as trace:
        assert trace.format == "disksim-ms"
        assert [int(t) for t in np.concatenate(list(trace))["ts_ns"]] == [500_000, 1_000_000, 1_250_000, 2_000_000]


def test_systor_requests_without_a_response_are_not_guessed(tmp_path: Path) -> None:
    text = "Timestamp,Response,IOType,LUN,Offset,Size\n1.000000000,,,3,512,1024\n2.000000000,0.5,R,3,0,512\n"
    for engine in ("auto", "native"):
        assert read(tmp_path / "t", text, engine=engine) == [
            (Kind.OTHER, 512, 1024, Flag(0)),
            (Kind.READ, 0, 512, Flag(0)),
        ]


def test_fio_synchronisations(tmp_path: Path) -> None:
    text = "fio version 2 iolog\n/a add\n/a open\n/a write 0 512\n/a datasync 0 0\n/a wait 150\n/a sync 5 5\n/a close\n"
    path = tmp_path / "t"
    flush = (Kind.FLUSH, 0, 0, Flag(0))
    assert read(path, text) == [(Kind.WRITE, 0, 512, Flag(0)), flush, flush]
    with open_trace(path) as trace:
        assert [int(t) for t in np.concatenate(list(trace))["ts_ns"]] == [0, 0, 150_000]


def test_blkreplay_notes_in_two_parts(tmp_path: Path) -> None:
    start = "start ; sector; length ; op ;  replay_delay=0 ; replay_duration=0\n"
    text = f"Notes\n\n{start}More notes, 5 of them\n{start}  0.5 ; 16 ; 8 ;RA ; 0.0 ; 0.0\n"
    path = tmp_path / "t"
    assert read(path, text) == [(Kind.READ, 8192, 4096, Flag.AHEAD)]
    with open_trace(path, skip_bad=True) as trace:
        assert sum(map(len, trace)) == 1 and trace.tally.comments == 5 and trace.tally.bad == 0
    path.write_text(text + "Notes\n")
    with open_trace(path, skip_bad=True) as trace:
        assert sum(map(len, trace)) == 1 and trace.tally.bad == 1


def test_scsi_codes(tmp_path: Path) -> None:
    codes = {0x08: 0, 0x28: 0, 0x88: 0, 0xA8: 0, 0x0A: 1, 0x2A: 1, 0x8A: 1, 0xAA: 1, 0x35: 4, 0x91: 4, 0x42: 5, 0x93: 5}
    text = "version,time,op,size,lbn\n" + "".join(f"1,{i},{code:x},512,8\n" for i, code in enumerate(codes))
    for engine in ("auto", "native"):
        assert [r[0] for r in read(tmp_path / "t", text, engine=engine)] == list(codes.values())


def test_what_requests_without_an_operation_are(tmp_path: Path) -> None:
    data = samples.encode("oracle-general", samples.random_requests("oracle-general", 20))
    assert {r[0] for r in read(tmp_path / "t", data)} == {Kind.WRITE}
    assert {r[0] for r in read(tmp_path / "t", data, assume=Kind.READ)} == {Kind.READ}


def test_limits_of_offsets(tmp_path: Path) -> None:
    """2^31, 2^32, 2^63 and their neighbours, in sectors and in bytes."""
    for end in (1 << 31, 1 << 32, 1 << 63):
        offsets = [end // 512 - 2, end // 512 - 1]
        text = "".join(f"0,{o},512,w,0.1\n" for o in offsets)
        assert [r[1] for r in read(tmp_path / "t", text, "spc")] == [o * 512 for o in offsets]
    text = f"1,W,{(1 << 63) - 1},1,5\n1,W,{(1 << 63) - 512},512,5\n"
    for engine in ("auto", "native"):
        assert [r[1] for r in read(tmp_path / "t", text, "alibaba", engine=engine)] == [(1 << 63) - 1, (1 << 63) - 512]


def test_fio_names_with_blanks_and_range_syncs(tmp_path: Path) -> None:
    """fio writes such logs itself. sync_file_range makes nothing durable: left out, and said."""
    path, name = tmp_path / "t", "/data/a read 5 file.0.0"
    lines = [f"{name} {rest}" for rest in ("add", "open", "write 0 4096", "sync_file_range 0 0", "wait 7", "syncfs 0 0",
                                           "close")]
    wanted = [(Kind.WRITE, 0, 4096, Flag(0)), (Kind.FLUSH, 0, 0, Flag(0))]
    assert read(path, "fio version 2 iolog\n" + "\n".join(lines)) == wanted
    with open_trace(path) as trace:
        assert sum(map(len, trace)) == 2 and trace.devices == [name] and trace.tally.skipped == 1
        assert trace.left_out == ["1 sync_file_range requests: they make nothing durable"]


def test_heading_where_the_format_has_none(tmp_path: Path) -> None:
    heading = "Timestamp,Hostname,DiskNumber,Type,Offset,Size,ResponseTime\n"
    row = "128166372010000000,srv,0,Write,1048576,4096,520\n"
    for engine in ("auto", "native"):
        assert read(tmp_path / "t", heading + row, engine=engine) == [(Kind.WRITE, 1048576, 4096, Flag(0))]
    assert len(read(tmp_path / "t", "time device lba sectors flags\n0.5 0 16 8 1\n")) == 1
    with pytest.raises(InvalidRequest, match=":2:1: msr"):
        read(tmp_path / "t", row + heading)


def test_replayer_is_no_disksim(tmp_path: Path) -> None:
    text = "0.000 0 100663296 4096 0\n0.412 0 100667392 8192 0\n1.250 0 73400320 16384 1\n"
    assert read(tmp_path / "t", text)[2] == (Kind.READ, 73400320, 16384, Flag(0))
    with open_trace(tmp_path / "t") as trace:
        assert trace.format == "replayer"


def test_two_formats_that_fit_are_not_guessed(tmp_path: Path) -> None:
    """512 may be 512 bytes or 256 KiB: the user says which."""
    text = "0.5 0 0 512 0\n1.5 0 512 512 0\n"
    with pytest.raises(InvalidRequest, match="more than one format fits: disksim-ms .* and replayer .*--format"):
        read(tmp_path / "t", text)
    assert read(tmp_path / "t", text, "replayer")[1][2] == 512
    assert read(tmp_path / "t", text, "disksim-ms")[1][2] == 512 * 512


@pytest.mark.parametrize("name", list(samples.GRAINS))
def test_every_pair_of_formats_is_told_apart(name: str) -> None:
    from cdp.trace.detect import find
    from cdp.trace.formats import FORMATS

    for seed in range(3):
        head = samples.encode(name, samples.random_requests(name, 60, seed))
        for other in (f for f in FORMATS.values() if f.name != name):
            for pair in ((FORMATS[name], other), (other, FORMATS[name])):
                found = find(head, pair)
                assert found is not None and found.name == name
