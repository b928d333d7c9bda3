"""Settings: one frozen object, made from a TOML file, the environment and flags, in rising precedence.

The class `Settings` below is the one table of all keys: type, unit, range, default and explanation of each stand beside
its name; docs/settings.md, the flags and their --help are produced from it.

Invariants
  1. A Settings object that exists is valid: every value has its type and lies in its range.
  2. An unknown key, a wrong type or a value out of range raises InvalidRequest, naming file, line and key, and does so
     before any volume, socket or certificate is opened. The module opens nothing but the TOML file.
  3. Every value in force has a source that can be shown to the user (`cdp config show`).

Text forms: sizes `64MiB`, durations `1s`, booleans `true`/`false`; a bare number counts in the unit of the key's name.
Pure but for reading the file: any thread.
"""
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cdp.text.sizes import format_duration_ms, format_size, parse_duration_ms, parse_size
from cdpcore.base.errors import InvalidRequest, NotFound

KIB, MIB, GIB = 1024, 1024**2, 1024**3
SEGMENT_STEP_BYTES = 4 * MIB
ENV_PREFIX = "CDP_"
CONFIG_ENV = "CDP_CONFIG"

Kind = Literal["size", "duration", "count", "bool", "choice", "path", "address", "name", "url"]
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@dataclass(frozen=True)
class Key:
    """What a key may hold. `low` and `high` are inclusive, in the key's unit."""

    name: str
    group: Literal["engine", "server"]
    kind: Kind
    default: Any
    doc: str
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    flag_name: str = ""

    @property
    def unit(self) -> str:
        return {"size": "bytes", "duration": "milliseconds", "count": "number"}.get(self.kind, self.kind)

    @property
    def flag(self) -> str:
        return self.flag_name or "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    def format(self, value: Any) -> str:
        """The value as text that `parse` reads back; `-` where it is not set."""
        if value is None:
            return "-"
        if self.kind == "size":
            return format_size(value)
        if self.kind == "duration":
            return format_duration_ms(value)
        if self.kind == "bool":
            return "true" if value else "false"
        return str(value)

    @property
    def range_text(self) -> str:
        if self.kind in ("size", "duration", "count"):
            return f"{self.format(self.low)} .. {self.format(self.high)}"
        if self.kind == "bool":
            return "true, false"
        if self.kind == "choice":
            return ", ".join(self.choices)
        return {"path": "a path", "address": "HOST:PORT", "name": "a name",
                "url": "http://... or https://..."}[self.kind]

    def parse(self, raw: object, where: str) -> Any:
        """The value that `raw` (text, or a TOML integer or boolean) means. Raises InvalidRequest naming `where`."""
        what = f"{where}: {self.name}"
        if self.kind == "bool":
            value: Any = raw
            if isinstance(raw, str):
                value = True if raw.lower() in _TRUE else False if raw.lower() in _FALSE else raw
            if not isinstance(value, bool):
                raise InvalidRequest(f"{what} = {raw!r} is not a boolean", "write true or false")
            return value
        if self.kind in ("size", "duration", "count"):
            return self._parse_number(raw, what)
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise InvalidRequest(f"{what} = {raw!r} is not text", f"write {self.range_text}")
        if self.kind == "choice" and raw not in self.choices:
            raise InvalidRequest(f"{what} = {raw!r} is not known", f"write one of {self.range_text}")
        if self.kind == "address":
            parse_address(raw, what)
        if self.kind == "url" and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", raw):
            raise InvalidRequest(f"{what} = {raw!r} is not a URL", f"write {self.range_text}")
        if self.kind == "name" and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", raw):
            raise InvalidRequest(f"{what} = {raw!r} is not a name", "write letters, digits, . _ and -")
        return raw

    def _parse_number(self, raw: object, what: str) -> int:
        example = {"size": "64MiB", "duration": "1s", "count": "16"}[self.kind]
        if isinstance(raw, bool) or not isinstance(raw, (int, str)):
            raise InvalidRequest(f"{what} = {raw!r} is not a {self.kind}", f"write it as {example}")
        if isinstance(raw, int) or re.fullmatch(r"-?\d{1,20}", raw.strip()):
            value = int(raw)
        elif self.kind == "size":
            value = parse_size(raw, what)
        elif self.kind == "duration":
            value = parse_duration_ms(raw, what)
        else:
            raise InvalidRequest(f"{what} = {raw!r} is not a number", f"write it as {example}")
        if not self.low <= value <= self.high:
            raise InvalidRequest(f"{what} = {raw} is out of range", f"write {self.range_text}")
        return value


def parse_address(text: str, what: str = "address") -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[IPV6]:PORT`; port 0 lets the system choose. Raises InvalidRequest."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\s:\[\]/]+)):(\d{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise InvalidRequest(f"{what} {text!r} is not HOST:PORT", "write, for instance, localhost:10809 or [::1]:10809")
    return found[1] or found[2], int(found[3])


def _engine(kind: Kind, default: Any, doc: str, **limits: Any) -> Any:
    return field(default=default, metadata={"key": ("engine", kind, doc, limits)})


def _server(kind: Kind, default: Any, doc: str, **limits: Any) -> Any:
    return field(default=default, metadata={"key": ("server", kind, doc, limits)})


@dataclass(frozen=True)
class Settings:
    """All settings; `Settings()` is the defaults. Raises InvalidRequest for a value out of its range."""

    pool_bytes: int = _engine(
        "size", 64 * MIB,
        "Data of a volume that may wait in memory on its way to the log; more of it, up to half of memory_bytes, while "
        "the device keeps up.",
        low=16 * MIB, high=4 * GIB)
    memory_bytes: int = _engine(
        "size", 0,
        "Memory that all volumes of a process share for what was just written; given back when idle. 0: an eighth of "
        "the machine's, or of what its control group allows.",
        low=0, high=1024 * GIB)
    segment_bytes: int = _engine(
        "size", 256 * MIB,
        "Size of a full log file, rounded up to 4MiB; it grows in steps. Opening after a crash reads at most two.",
        low=16 * MIB, high=4 * GIB)
    commit_interval_ms: int = _engine(
        "duration", 1000,
        "Data that no client has flushed is written and synced at least this often; 0: only at a flush.",
        low=0, high=60_000)
    merge_fanin: int = _engine(
        "count", 8, "How many index files are merged into one.", low=2, high=16)
    max_open_files: int = _engine(
        "count", 256, "Log files that a volume keeps open at once.", low=16, high=65_536)
    max_restores: int = _engine(
        "count", 4096, "Restores that a volume can hold; one more is refused. Undo is not: it does not count.", low=1,
        high=1_048_576)
    pending_bytes: int = _engine(
        "size", 64 * MIB,
        "Before-image volumes: memory for new content that waits until what it overwrites is durable.",
        low=4 * MIB, high=4 * GIB)
    skip_unchanged_writes: bool = _engine(
        "bool", False, "Before-image volumes: a write of what is there already is recorded, but keeps no data.")
    restore_rate_bytes: int = _engine(
        "size", 0,
        "Before-image volumes: how much of a restore is written back per second; 0: as fast as the disk takes it.",
        low=0, high=1024 * GIB)
    maintenance_rate_bytes: int = _engine(
        "size", 128 * MIB,
        "How much of the history that was given up is folded into the base per second; a quarter of it while clients "
        "write, unless it falls behind; 0: as fast as the disk takes it.", low=0, high=1024 * GIB)
    low_space_bytes: int = _engine(
        "size", GIB, "With less free on the volume's device than this, a warning is logged and 'cdp info' says so; 0: "
        "never.", low=0, high=1024 * 1024 * GIB)
    direct_io: bool = _engine(
        "bool", True, "Write the log past the page cache where the file system can.")
    unix_socket: str | None = _server(
        "path", None, "NBD socket of `cdp serve`. Not set, and no tcp_listen: NAME.sock in the runtime folder.",
        flag_name="--unix")
    tcp_listen: str | None = _server(
        "address", None, "Host and port on which `cdp serve` offers NBD; port 0 lets the system choose.",
        flag_name="--tcp")
    admin_socket: str | None = _server(
        "path", None, "Socket through which the other commands reach a running server. "
        "Not set: NAME.admin.sock in the runtime folder.")
    admin_read_socket: str | None = _server(
        "path", None, "Second socket of the administration API, with mode 0660: it answers GET requests only, so that "
        "the group of its file can look and change nothing.")
    metrics_listen: str | None = _server(
        "address", None, "Host and port on which `cdp serve` answers GET /metrics (Prometheus) and /healthz, to "
        "anybody who can connect. Not set: only on the administration socket.", flag_name="--metrics")
    standby_listen: str | None = _server(
        "address", None, "Host and port on which `cdp serve` lets standbys connect (docs/standby.md); with TLS where "
        "`tls` says so. Who can connect gets all that the volumes hold and held.")
    standby_socket: str | None = _server(
        "path", None, "The same on a unix socket.")
    max_connections: int = _server(
        "count", 128, "NBD connections at once; a further client is refused with an error.", low=1, high=4096)
    connection_memory_bytes: int = _server(
        "size", 0, "Memory that all NBD connections share for requests of more than 1MiB and for replies that wait; a "
        "request waits for its turn at it. 0: a sixteenth of the machine's, or of what its control group allows, 64MiB "
        "at least and 1GiB at most. Less than 40MiB counts as 40MiB.", low=0, high=1024 * GIB)
    scrub_rate_bytes: int = _server(
        "size", 16 * MIB, "How much a server reads per second to compare what is stored with its checksums; a quarter "
        "of it while clients wait; 0: as fast as it comes.", low=0, high=1024 * GIB)
    scrub_interval_ms: int = _server(
        "duration", 7 * 24 * 3_600_000, "How long after a scrub has ended a server begins the next one; 0: never.",
        low=0, high=366 * 24 * 3_600_000)
    alert_days_left: int = _server(
        "count", 7, "Alert: the device is full, or writes meet the limit, in fewer days; 0: never.", low=0, high=3650)
    alert_limit_percent: int = _server(
        "count", 90, "Alert: so much of a limit that refuses or slows writes is used; 0: never.", low=0, high=100)
    alert_floor_bytes: int = _server(
        "size", 64 * MIB, "Alert: so much more than the limit says is kept by the floor or by pins; 0: never.", low=0,
        high=1024 * GIB)
    alert_index_runs: int = _server(
        "count", 48, "Alert: so many files of the index wait to be merged, or the policy is not applied; 0: never.",
        low=0, high=64)
    alert_damage: int = _server(
        "count", 1, "Alert: the scrub found so many damaged places; 0: never.", low=0, high=1_000_000)
    alert_clock_ms: int = _server(
        "duration", 2000, "Alert: the clock jumped by, or is behind the newest record by, so much; 0: never.", low=0,
        high=366 * 24 * 3_600_000)
    alert_unflushed_ms: int = _server(
        "duration", 15 * 60_000, "Alert: a connected client has not flushed for so long after a write; 0: never.",
        low=0, high=366 * 24 * 3_600_000)
    alert_suspicious_bytes: int = _server(
        "size", 16 * MIB, "Alert: so much was overwritten as if it were being encrypted; 0: never, nothing is counted.",
        low=0, high=1 << 40)
    alert_standby_ms: int = _server(
        "duration", 60_000, "Alert: a standby is so far behind, or was not there for so long; 0: never.", low=0,
        high=366 * 24 * 3_600_000)
    alert_command: str | None = _server(
        "path", None, "Program that is run for each alert, with the alert as JSON on its standard input.")
    alert_webhook: str | None = _server(
        "url", None, "URL that each alert is sent to, as JSON, with POST.")
    tls: str = _server(
        "choice", "off", "TLS for NBD clients: on lets a client ask for it, require refuses clients without it.",
        choices=("off", "on", "require"))
    tls_cert: str | None = _server("path", None, "Server certificate chain, PEM.")
    tls_key: str | None = _server("path", None, "Private key of the certificate, PEM.")
    tls_ca: str | None = _server(
        "path", None, "Certificate authority, PEM: clients must show a certificate that it signed.")
    tls_psk: str | None = _server(
        "path", None, "Keys that clients have too, a line USER:HEXKEY each, in place of a certificate (Python 3.13).")
    platform: str = _server(
        "name", "local", "What connects `cdp serve` with buffers, requests and threads: an installed platform "
        "(docs/porting.md); only `local` is fast.")
    log_level: str = _server(
        "choice", "info", "Least level of the log lines on standard error.",
        choices=("debug", "info", "warning", "error"))
    log_format: str = _server(
        "choice", "text", "Log lines on standard error as text, or each as a JSON object.", choices=("text", "json"))

    def __post_init__(self) -> None:
        for key in KEYS.values():
            value = getattr(self, key.name)
            if value is None and key.default is None:
                continue
            if isinstance(value, os.PathLike):
                value = os.fspath(value)
            object.__setattr__(self, key.name, key.parse(value, "settings"))
        step = SEGMENT_STEP_BYTES
        object.__setattr__(self, "segment_bytes", -(-self.segment_bytes // step) * step)
        if self.tls != "off" and self.tls_psk:
            for name in ("tls_cert", "tls_key", "tls_ca"):
                if getattr(self, name) is not None:
                    raise InvalidRequest(f"settings: tls_psk is set, and {name} is too",
                                         "TLS is by keys or by certificates: leave one of them out")
        elif self.tls != "off":
            for name in ("tls_cert", "tls_key"):
                if getattr(self, name) is None:
                    raise InvalidRequest(f"settings: tls is {self.tls}, but {name} is not set",
                                         f"give {KEYS[name].flag} FILE, or --tls-psk FILE, or set tls to off")


def checked(settings: Settings | None) -> Settings:
    """The settings that a caller gave; None: the defaults. Raises InvalidRequest for anything else, above all a
    dict."""
    if settings is None:
        return Settings()
    if not isinstance(settings, Settings):
        raise InvalidRequest(f"settings: {type(settings).__name__} is not cdp.Settings",
                             "give, for instance, cdp.Settings(pool_bytes=128 << 20)")
    return settings


def _table() -> dict[str, Key]:
    keys = {}
    for item in dataclasses.fields(Settings):
        group, kind, doc, limits = item.metadata["key"]
        keys[item.name] = Key(name=item.name, group=group, kind=kind, default=item.default, doc=doc, **limits)
    return keys


KEYS: dict[str, Key] = _table()


@dataclass(frozen=True)
class InForce:
    """Settings with the source of each value: "default", "FILE:LINE", "environment NAME" or "flag --NAME"."""

    settings: Settings
    sources: Mapping[str, str]
    config_path: str | None


def load(config: str | None = None, environ: Mapping[str, str] | None = None,
         flags: Mapping[str, object] | None = None, assignments: Sequence[str] = ()) -> InForce:
    """Settings from the TOML file `config` (else $CDP_CONFIG, else none), `environ` (else os.environ) and flags.

    `assignments` are the texts KEY=VALUE of --set; `flags` maps key names to texts or values, None meaning not given,
    and wins over --set. Raises InvalidRequest, or NotFound for the file.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources = dict.fromkeys(KEYS, "default")

    config = config or environ.get(CONFIG_ENV) or None
    if config:
        _load_file(config, values, sources)
    _load_environ(environ, values, sources)
    for text in assignments:
        name, equals, raw = (part.strip() for part in text.partition("="))
        if not equals:
            raise InvalidRequest(f"flag --set {text}: no value",
                                 "write --set KEY=VALUE, for instance --set pool_bytes=128MiB")
        if name not in KEYS:
            raise InvalidRequest(f"flag --set: unknown key {name!r}", _suggest(name))
        values[name] = KEYS[name].parse(raw, "flag --set")
        sources[name] = f"flag --set {name}"
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = KEYS[name].parse(value, f"flag {KEYS[name].flag}")
            sources[name] = f"flag {KEYS[name].flag}"
    settings = Settings(**values)
    if sources["tls"] == "default":
        for name in ("tls_cert", "tls_key", "tls_ca", "tls_psk"):
            if name in values:  # never serve in plain what was meant to be TLS
                raise InvalidRequest(f"{sources[name]}: {name} is given, but tls is not", "add tls: off, on or require")
    return InForce(settings, sources, config)


def _load_file(path: str, values: dict[str, Any], sources: dict[str, str]) -> None:
    import tomllib

    try:
        with open(path, "rb") as file:
            text = file.read(1 << 20).decode()
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such settings file", f"check --config and ${CONFIG_ENV}") from None
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot read the settings: {error.strerror}",
                             f"check --config and ${CONFIG_ENV}") from None
    except ValueError as error:  # of UTF-8 or TOML; the latter's message has the line
        raise InvalidRequest(f"{path}: not TOML: {error}", "write lines such as pool_bytes = \"64MiB\"") from None
    for name, raw in table.items():
        where = f"{path}:{_line_of(text, name)}"
        if isinstance(raw, dict):
            raise InvalidRequest(f"{where}: unknown table [{name}]", "keys stand at the top, without tables")
        if name not in KEYS:
            raise InvalidRequest(f"{where}: unknown key {name!r}", _suggest(name))
        key = KEYS[name]
        value = key.parse(raw, where)
        if key.kind == "path":  # relative to the file that says so
            value = os.path.join(os.path.dirname(os.path.abspath(path)), value)
        values[name] = value
        sources[name] = where


def _load_environ(environ: Mapping[str, str], values: dict[str, Any], sources: dict[str, str]) -> None:
    by_env = {key.env: key for key in KEYS.values()}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name == CONFIG_ENV:
            continue
        if key := by_env.get(name):
            values[key.name] = key.parse(environ[name], f"environment {name}")
            sources[key.name] = f"environment {name}"
            continue
        # Other programs use the prefix too, so only what looks like a slip of the pen is refused.
        import difflib

        if close := difflib.get_close_matches(name, by_env, n=1, cutoff=0.85):
            raise InvalidRequest(f"environment: unknown key {name}", f"did you mean {close[0]}?")


def _line_of(text: str, name: str) -> int:
    """The line (from 1) on which a top-level key or table is first written; 1 where it cannot be told."""
    pattern = re.compile(rf"""\s*\[?\[?\s*(["']?){re.escape(name)}\1\s*[.=\]]""")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return number
    return 1


def _suggest(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name.replace("-", "_"), KEYS, n=1)
    return f"did you mean {close[0]}?" if close else "'cdp config show' lists the keys"
