"""Settings: precedence, ranges, text forms, and messages that name file, line and key."""
import dataclasses
from pathlib import Path

import pytest

from cdp.settings import KEYS, Settings, load, parse_address
from cdp.text import sizes as units
from cdpcore.base.errors import InvalidRequest, NotFound

MIB = 1 << 20


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "cdp.toml"
    path.write_text(text)
    return str(path)


def refused(*args, **kwargs) -> str:
    with pytest.raises(InvalidRequest) as caught:
        load(*args, **{"environ": {}, **kwargs})
    text = str(caught.value)
    assert "\n" not in text and caught.value.hint, text
    return text


def test_defaults_lie_in_their_ranges_and_are_all_explained():
    settings = Settings()
    for key in KEYS.values():
        assert getattr(settings, key.name) == key.default
        assert len(key.doc) > 20 and key.range_text and key.env == "CDP_" + key.name.upper()
        if key.default is not None:
            assert key.parse(key.format(key.default), "test") == key.default
    assert len({key.flag for key in KEYS.values()}) == len(KEYS)


def test_flags_beat_environment_beats_file(tmp_path):
    config = write(tmp_path, '# mine\npool_bytes = "32MiB"\nmerge_fanin = 4\ncommit_interval_ms = "2s"\n')
    environ = {"CDP_POOL_BYTES": "48MiB", "CDP_MERGE_FANIN": "5", "CDP_CONFIG": config, "HOME": "/"}
    got = load(environ=environ, flags={"pool_bytes": "80MiB", "segment_bytes": None})
    assert (got.settings.pool_bytes, got.settings.merge_fanin, got.settings.commit_interval_ms) == (80 * MIB, 5, 2000)
    assert got.sources["pool_bytes"] == "flag --pool-bytes"
    assert got.sources["merge_fanin"] == "environment CDP_MERGE_FANIN"
    assert got.sources["commit_interval_ms"] == f"{config}:4"
    assert got.sources["segment_bytes"] == "default"
    assert got.config_path == config


def test_config_flag_beats_the_environment_variable(tmp_path):
    config = write(tmp_path, "merge_fanin = 4")
    assert load(config, environ={"CDP_CONFIG": "/nowhere.toml"}).settings.merge_fanin == 4
    with pytest.raises(NotFound):
        load(environ={"CDP_CONFIG": "/nowhere.toml"})


def test_assignments(tmp_path):
    got = load(environ={}, assignments=["pool_bytes=80MiB", "direct_io = no"])
    assert got.settings.pool_bytes == 80 * MIB and got.settings.direct_io is False
    assert got.sources["direct_io"] == "flag --set direct_io"
    assert "did you mean pool_bytes" in refused(assignments=["pool_byte=1"])
    assert "--set KEY=VALUE" in refused(assignments=["pool_bytes"])


@pytest.mark.parametrize("line, named", [
    ("pool_byte = 3", "unknown key 'pool_byte'; did you mean pool_bytes?"),
    ("colour = 3", "unknown key 'colour'; 'cdp config show' lists the keys"),
    ('pool_bytes = "1MiB"', "pool_bytes = 1MiB is out of range; write 16MiB .. 4GiB"),
    ("pool_bytes = 4294967297", "pool_bytes = 4294967297 is out of range"),
    ("pool_bytes = -1", "out of range"),
    ("pool_bytes = true", "is not a size; write it as 64MiB"),
    ("pool_bytes = 1.5", "is not a size"),
    ("pool_bytes = [1]", "is not a size"),
    ('pool_bytes = "lots"', "'lots' is not a size"),
    ('pool_bytes = "33554432.5"', "not a whole number of bytes"),
    ('commit_interval_ms = "soon"', "is not a duration"),
    ('commit_interval_ms = "61s"', "is out of range; write 0ms .. 1m"),
    ('merge_fanin = "many"', "is not a number"),
    ("merge_fanin = 1", "out of range; write 2 .. 16"),
    ('direct_io = "maybe"', "is not a boolean; write true or false"),
    ("direct_io = 1", "is not a boolean"),
    ('log_level = "loud"', "is not known; write one of debug, info, warning, error"),
    ("unix_socket = 5", "is not text; write a path"),
    ('unix_socket = ""', "is not text"),
    ('tcp_listen = "10809"', "is not HOST:PORT"),
    ('tcp_listen = "localhost:70000"', "is not HOST:PORT"),
    ("[engine]\npool_bytes = 1", "unknown table [engine]; keys stand at the top, without tables"),
])
def test_file_refusals_name_file_and_line(tmp_path, line, named):
    config = write(tmp_path, f"# a comment\nmax_restores = 7\n{line}\n")
    text = refused(config)
    assert f"{config}:3: " in text and named in text


def test_broken_toml_names_the_file_and_the_line(tmp_path):
    config = write(tmp_path, "max_restores = 7\npool_bytes = 64MiB\n")
    assert config in (text := refused(config)) and "line 2" in text
    (tmp_path / "cdp.toml").write_bytes(b"\xff\xfe")
    assert config in refused(config)
    assert "cannot read" in refused(str(tmp_path))


def test_environment_refusals():
    assert "environment CDP_POOL_BYTES: pool_bytes = 1 is out of range" in refused(environ={"CDP_POOL_BYTES": "1"})
    assert "did you mean CDP_POOL_BYTES?" in refused(environ={"CDP_POOL_BYTE": "64MiB"})
    load(environ={"CDP_TRACES": "/x", "CDP_SANITIZE": "1", "CDP_PLAIN_POSIX": "1", "CDP_DEBUG": "1"})  # not settings


def test_refused_before_anything_else_is_read(tmp_path):
    assert "flag --pool-bytes: pool_bytes = 1 is out of range" in refused(flags={"pool_bytes": "1"})


def test_direct_construction_is_checked_too():
    with pytest.raises(InvalidRequest):
        Settings(pool_bytes=1)
    with pytest.raises(InvalidRequest):
        Settings(pool_bytes=None)
    with pytest.raises(InvalidRequest):
        dataclasses.replace(Settings(), log_level="x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().pool_bytes = 5
    assert Settings(unix_socket=Path("/x/y")).unix_socket == "/x/y"
    assert Settings(segment_bytes=16 * MIB + 1).segment_bytes == 20 * MIB


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    got = load(write(tmp_path, 'unix_socket = "nbd.sock"'), environ={"CDP_ADMIN_SOCKET": "here.sock"})
    assert got.settings.unix_socket == str(tmp_path / "nbd.sock")
    assert got.settings.admin_socket == "here.sock"


def test_tls_is_all_or_nothing():
    with pytest.raises(InvalidRequest, match="tls_cert is not set; give --tls-cert FILE"):
        Settings(tls="require")
    assert "tls is not" in refused(flags={"tls_cert": "c.pem"})
    load(environ={}, flags={"tls_cert": "c.pem", "tls": "off"})
    load(environ={}, flags={"tls_cert": "c.pem", "tls_key": "k.pem", "tls": "on"})


@pytest.mark.parametrize("text, size", [
    ("4096", 4096), ("512B", 512), ("10G", 10 << 30), ("64MiB", 64 << 20), ("64mib", 64 << 20), ("1.5K", 1536),
    ("2Ti", 2 << 40), ("1GB", 10**9), (" 3 M ", 3 << 20), ("64T", 1 << 46), ("0", 0),
])
def test_sizes(text, size):
    assert units.parse_size(text) == size
    assert units.parse_size(units.format_size(size)) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "10 GiBs", "0.3", "1,5G", "0x10", "10X"])
def test_bad_sizes(text):
    with pytest.raises(InvalidRequest):
        units.parse_size(text)


@pytest.mark.parametrize("text, ms", [
    ("250ms", 250), ("1s", 1000), ("1.5s", 1500), ("2m", 120_000), ("2min", 120_000), ("1d", 86_400_000),
])
def test_durations(text, ms):
    assert units.parse_duration_ms(text) == ms
    assert units.parse_duration_ms(units.format_duration_ms(ms)) == ms


@pytest.mark.parametrize("text", ["", "1", "s", "0.1ms", "-1s", "1 week"])
def test_bad_durations(text):
    with pytest.raises(InvalidRequest):
        units.parse_duration_ms(text)


def test_ages():
    second = 10**9
    for ns, text in [(0, "now"), (350 * 10**6, "350 ms ago"), (12 * second, "12 s ago"),
                     (303 * second, "5 min 3 s ago"),
                     (7800 * second, "2 h 10 min ago"), (3 * 86400 * second, "3 d ago"), (-5 * second, "in 5 s")]:
        assert units.approx_age(ns) == text


@pytest.mark.parametrize("text, want", [
    ("localhost:10809", ("localhost", 10809)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:1", ("0.0.0.0", 1)),
])
def test_addresses(text, want):
    assert parse_address(text) == want


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "::1:5", "host:port", "a b:1", "h:65536", "nbd://h:1"])
def test_bad_addresses(text):
    with pytest.raises(InvalidRequest):
        parse_address(text)
