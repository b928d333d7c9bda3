"""The native parsers on bytes that nobody meant: no crash, no hang, no record outside the rules, everything consumed.

Under `make sanitize` the same tests run with ASan and UBSan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seeds import examples

from cdp.trace import FORMATS, open_trace, samples
from cdp.trace.fixed import LAYOUTS
from cdp.trace.formats import STAGES
from cdp.trace.model import END_BYTES, RECORD
from cdp.trace.samples import GRAINS, write_log
from cdpcore.base.errors import CdpError
from cdpcore.trace import parse as traceparse

pytestmark = pytest.mark.sanitize

SETTINGS = examples(60)
TEXT = {name: f.text for name, f in FORMATS.items() if f.shape == "text"}
DAMAGE = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=12), st.integers(0, 40)), max_size=6)
BITS = sum(STAGES.values())


def damaged(data: bytes, damage: list[tuple[int, bytes, int]]) -> bytes:
    """Stretches replaced by other bytes, of other lengths."""
    out = bytearray(data)
    for at, new, drop in damage:
        at %= len(out) + 1
        out[at : at + drop] = new
    return bytes(out)


def check_records(records: np.ndarray, devices: int) -> None:
    offset, length = records["offset_bytes"], records["length_bytes"]
    assert (offset <= END_BYTES).all() and (length <= END_BYTES).all()
    assert (offset + length <= END_BYTES).all()
    assert (
        (records["kind"] <= 5).all() and (records["flags"] < 32).all() and (records["device"] < max(1, devices)).all()
    )
    flush = records["kind"] == 4
    assert not offset[flush].any() and not length[flush].any()


def run_text(number: int, data: bytes, pieces: list[int], skip_bad: bool) -> tuple[np.ndarray, traceparse.TextParser]:
    """Parses data cut into pieces; gives the records and the parser."""
    parser = traceparse.TextParser(number, traceparse.DeviceTable(), skip_bad=skip_bad, stages=BITS)
    out = np.zeros(data.count(b"\n") + 2, RECORD)
    rest, made, at, turn = b"", 0, 0, 0
    while True:
        size = pieces[turn % len(pieces)]
        turn += 1
        rest += data[at : at + size]
        at += size
        final = at >= len(data)
        step, used, more = parser.run(rest, final, out.view(np.uint8), made)
        made += more
        assert used <= len(rest)
        rest = rest[used:]
        if step == traceparse.BAD:
            assert not skip_bad
            break
        assert step == traceparse.MORE
        if final:
            assert rest == b""
            break
    check_records(out[:made], len(parser.devices))
    return out[:made], parser


@pytest.mark.soak
@pytest.mark.parametrize("name", list(TEXT))
def test_text_parser_on_damaged_files(name: str) -> None:
    data = samples.encode(name, samples.random_requests(name, 12))

    @SETTINGS
    @given(DAMAGE, st.lists(st.integers(1, 500), min_size=1, max_size=3))
    def check(damage: list[tuple[int, bytes, int]], pieces: list[int]) -> None:
        text = damaged(data, damage)
        whole, parser = run_text(TEXT[name], text, [1 << 20], True)
        again, cut = run_text(TEXT[name], text, pieces, True)
        assert np.array_equal(whole, again)
        assert (parser.lines, parser.bad_lines, parser.bad()) == (cut.lines, cut.bad_lines, cut.bad())
        assert parser.lines == text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
        strict, stopped = run_text(TEXT[name], text, pieces, False)
        if parser.bad_lines:
            line, column, expected, found, _ = stopped.bad()
            assert (line, column, expected) == parser.bad()[:3]
            assert expected and 1 <= column <= len(text.split(b"\n")[line - 1]) + 1
            assert text.split(b"\n")[line - 1][column - 1 :].startswith(found.rstrip(b"\r")[:10])
        assert np.array_equal(strict, whole[: len(strict)])

    check()


@pytest.mark.soak
@pytest.mark.parametrize("name", list(TEXT))
def test_text_parser_on_noise(name: str) -> None:
    @SETTINGS
    @given(
        st.binary(max_size=300) | st.text(alphabet="0123456789,;. +-\nRWDFNx#[]()/\t\r", max_size=300).map(str.encode)
    )
    def check(noise: bytes) -> None:
        run_text(TEXT[name], noise, [7, 50], True)

    check()


@pytest.mark.parametrize("name", [n for n in GRAINS if FORMATS[n].shape == "text"])
def test_changed_bytes_never_become_other_records_silently(name: str) -> None:
    """A line that lost its last field is malformed, or at least not a record with a made-up value."""
    lines = samples.encode(name, samples.random_requests(name, 3)).splitlines()
    number = next(
        i
        for i in range(len(lines) - 1, -1, -1)
        if b"0" in lines[i] and len(lines[i].split()) + lines[i].count(b",") > 4 and b"Reads" not in lines[i]
    )
    head = b"".join(line + b"\n" for line in lines[:number])
    separator = max((b",", b";", b" "), key=lines[number].strip().count)
    short = separator.join(lines[number].split(separator)[:-2]).rstrip()
    if name == "blkparse":
        short = b" ".join(lines[number].split()[:7])
    _, parser = run_text(TEXT[name], head + short + b"\n", [1 << 20], True)
    assert parser.bad_lines == 1 and parser.bad()[0] == number + 1


@pytest.mark.soak
@pytest.mark.parametrize("order", ["<", ">"])
def test_blktrace_parser_on_damaged_files(order: str) -> None:
    data = samples.blktrace(samples.random_requests("blktrace", 12), order, clock=(5, 6))

    @SETTINGS
    @given(DAMAGE, st.booleans())
    def check(damage: list[tuple[int, bytes, int]], skip_bad: bool) -> None:
        broken = damaged(data, damage)
        parser = traceparse.BlktraceParser(traceparse.DeviceTable(), skip_bad=skip_bad, stages=BITS)
        out = np.zeros(len(broken) // 48 + 2, RECORD)
        step, used, made = parser.run(broken, True, out.view(np.uint8))
        assert used == len(broken) or step == traceparse.BAD
        if step == traceparse.BAD:
            number, at, expected = parser.bad()
            assert not skip_bad and number == parser.events + 1 and at == used and expected
        check_records(out[:made], len(parser.devices))
        assert bool(parser.bad_events) <= skip_bad

    check()


@pytest.mark.soak
def test_write_log_parser_on_damaged_files() -> None:
    data = write_log([(i, 1 + i % 3, (0, 2, 1, 16)[i % 4], bytes(512 * (1 + i % 3))) for i in range(9)])

    @SETTINGS
    @given(DAMAGE, st.integers(1, 3000))
    def check(damage: list[tuple[int, bytes, int]], size: int) -> None:
        broken = damaged(data, damage)
        if len(broken) < 28:
            return
        parser = traceparse.DmLogParser(broken[:28])
        if not parser.valid:
            assert parser.bad()[2]
            return
        at, out, made = parser.skip_super(), np.zeros(64, RECORD), 0
        size = max(size, parser.sector_bytes)
        while made < 64:
            step, used, more = parser.run(broken[at : at + size], out.view(np.uint8), made)
            made += more
            at += used
            assert parser.position == at
            if step != traceparse.MORE or (not used and at + size > len(broken)):
                break
        check_records(out[:made], 1)
        some = out[:made][out[:made]["payload"] > 0]
        assert (some["payload"] % np.uint64(parser.sector_bytes) == 0).all()

    check()


@pytest.mark.soak
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_fixed_records_of_noise(name: str, tmp_path: object) -> None:
    path = f"{tmp_path}/t"

    @SETTINGS
    @given(st.binary(min_size=1, max_size=400), st.booleans())
    def check(noise: bytes, skip_bad: bool) -> None:
        with open(path, "wb") as file:
            file.write(noise)
        try:
            with open_trace(path, name, skip_bad=skip_bad) as trace:
                for records in trace:
                    check_records(records, 1)
        except CdpError as error:
            assert path in str(error) and (not skip_bad or "is cut or damaged" in str(error))

    check()


@pytest.mark.soak
def test_any_file_is_read_or_refused_in_one_line(tmp_path: object) -> None:
    """The whole way from detection: damaged files of every format either read or say why not."""
    path = f"{tmp_path}/t"
    files = [samples.encode(name, samples.random_requests(name, 8)) for name in GRAINS]
    files.append(write_log([(0, 1, 0, bytes(512))]))

    @examples(120)
    @given(st.sampled_from(files), DAMAGE)
    def check(data: bytes, damage: list[tuple[int, bytes, int]]) -> None:
        with open(path, "wb") as file:
            file.write(damaged(data, damage))
        try:
            with open_trace(path) as trace:
                for records in trace:
                    check_records(records, len(trace.devices))
        except CdpError as error:
            assert "\n" not in str(error) and path in str(error) and error.exit_code in (2, 3)

    check()


def test_device_table_is_exact_and_bounded() -> None:
    table = traceparse.DeviceTable()
    keys = [(f"host{i % 700}".encode(), i // 700) for i in range(20_000)]
    assert [table.index(*key) for key in keys] == list(range(20_000))
    assert [table.index(*key) for key in reversed(keys)] == list(range(19_999, -1, -1))
    assert [table.key(i) for i in range(20_000)] == keys and len(table) == 20_000
    with pytest.raises(IndexError):
        table.key(20_000)
    with pytest.raises(CdpError, match="at most 1024"):
        table.index(b"x" * 1025, 0)
    full = traceparse.DeviceTable()
    with pytest.raises(CdpError, match="more than 1048576 devices"):
        for number in range(traceparse.MAX_DEVICES + 1):
            full.index(b"", number)


def test_arguments_are_checked() -> None:
    table = traceparse.DeviceTable()
    with pytest.raises(ValueError):
        traceparse.TextParser(traceparse.FORMATS, table)
    with pytest.raises(ValueError):
        traceparse.TextParser(0, table).run(b"x", True, np.zeros(1, RECORD).view(np.uint8), 1)
    with pytest.raises(ValueError):
        traceparse.DmLogParser(b"short")
    with pytest.raises(TypeError):
        traceparse.TextParser(0, None)  # type: ignore[arg-type]
