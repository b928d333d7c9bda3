"""What all commands share: common options, help layout, settings, and errors as one line.

Invariants
  1. Whatever goes wrong, the user sees one line `cdp: error: what, where; what to do next` on standard error and an
     exit status of cdp.cli.exits; a traceback only with --debug.
  2. Settings are read and checked before a command's body runs.
  3. Standard output carries results only: with --json one JSON document (or lines of them where the help says so).
Nothing heavy is imported at module level here or in any command module: `cdp --version` must feel instant.
"""
import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, cast

import click

from cdp.cli import exits
from cdp.cli.completion import Text, with_hints
from cdp.cli.extras import EXTRA_OF, missing
from cdp.cli.output import drop_unwritten, put, say
from cdp.ipc import log_lines
from cdp.ipc.service_manager import notify
from cdp.settings import KEYS, InForce, Settings, load
from cdp.store.attached import explained
from cdpcore.base.errors import CdpError, InvalidRequest

# Any command that looks at a volume can end with these.
VOLUME_EXITS = (exits.OK, exits.USAGE, exits.NOT_FOUND, exits.CORRUPT, exits.BUSY, exits.UNAVAILABLE)
POINT_EXITS = tuple(sorted((*VOLUME_EXITS, exits.REFUSED)))
WRITE_EXITS = tuple(sorted((*POINT_EXITS, exits.NO_SPACE)))
SERVE_EXITS = tuple(sorted((*VOLUME_EXITS, exits.NO_SPACE)))

MORE_FILES = "the process may have no more files open: raise the limit (ulimit -n)"
COMPLETE = "_CDP_COMPLETE"      # set by a shell that asks for completions


@dataclass
class State:
    """The common options of one invocation; click's context object."""

    as_json: bool = False
    debug: bool = False
    config: str | None = None
    assignments: list[str] = field(default_factory=list)
    flags: dict[str, str] = field(default_factory=dict)
    no_stdout: bool = False  # it was closed when the process began
    in_force: InForce | None = None
    late: ExitStack = field(default_factory=ExitStack)  # what is left when the command has ended, and its error is said
    archives: dict[str, str] = field(default_factory=dict)      # by URL, the folder in which one is open to read

    @property
    def settings(self) -> Settings:
        assert self.in_force is not None, "settings are loaded before a command's body"
        return self.in_force.settings


def _store(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        state = ctx.find_root().ensure_object(State)
        if name == "assignments":
            state.assignments.extend(value)
        elif value:
            setattr(state, name, value)

    return callback


def _common(root: bool) -> list[click.Parameter]:
    return [
        click.Option(["--json"], is_flag=True, expose_value=False, callback=_store("as_json"), hidden=root,
                     help="Print the result as JSON."),
        click.Option(["--config"], metavar="FILE", expose_value=False, callback=_store("config"), hidden=root,
                     help="Settings file (TOML); else $CDP_CONFIG."),
        click.Option(["--set"], metavar="KEY=VALUE", multiple=True, expose_value=False, callback=_store("assignments"),
                     hidden=root, help="Any setting ('cdp config show' lists them); may be repeated."),
        click.Option(["--debug"], is_flag=True, expose_value=False, callback=_store("debug"), hidden=root,
                     help="Show the traceback of an error."),
    ]


def _setting_option(name: str) -> click.Option:
    key = KEYS[name]

    def callback(ctx: click.Context, _param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.find_root().ensure_object(State).flags[name] = value

    metavar = {"size": "SIZE", "duration": "TIME", "count": "N", "bool": "true|false", "path": "FILE",
               "address": "HOST:PORT", "name": "NAME", "url": "URL", "choice": "|".join(key.choices)}[key.kind]
    bounds = f" {key.range_text};" if key.kind in ("size", "duration", "count") else ""
    default = f" [{bounds} default {key.format(key.default)}]" if key.default is not None else ""
    choices = ("true", "false") if key.kind == "bool" else key.choices
    return click.Option([key.flag, name], metavar=metavar, expose_value=False, callback=callback,
                        type=Text(choices) if choices else None,
                        help=key.doc + default.replace("[ ", "["))


def _help_engine(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    formatter = ctx.make_formatter()
    with formatter.section("Options of the engine, which are also settings (docs/settings.md)"):
        formatter.write_dl([record for param in ctx.command.get_params(ctx) if param.name in ENGINE_KEYS
                            and (record := param.get_help_record(ctx)) is not None])
    put(formatter.getvalue().rstrip("\n"))
    ctx.exit()


def _engine_options(names: Iterable[str]) -> list[click.Parameter]:
    """What shows the engine's options, where a command has any."""
    return [click.Option(["--help-engine"], is_flag=True, expose_value=False, is_eager=True, callback=_help_engine,
                         help="Show the engine's options and exit.")] if {*names} & {*ENGINE_KEYS} else []


COMMON = {"--json", "--config", "--set", "--debug", "--help", "--help-engine", "--version"}
ENGINE_KEYS = tuple(name for name, key in KEYS.items() if key.group == "engine")
SERVER_KEYS = tuple(name for name, key in KEYS.items() if key.group == "server")


class CdpCommand(click.Command):
    """A command with the common options, EXAMPLES and EXIT STATUS."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]], exit_codes: Iterable[int] = VOLUME_EXITS,
                 setting_flags: Iterable[str] = (), quiet: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples, self.exit_codes, self.quiet = examples, tuple(exit_codes), quiet
        self.params = with_hints([*self.params, *map(_setting_option, setting_flags), *_common(root=False),
                                  *_engine_options(setting_flags)])

    def invoke(self, ctx: click.Context) -> Any:
        state = ctx.find_root().ensure_object(State)
        state.in_force = load(state.config, flags=state.flags, assignments=state.assignments)
        level = state.settings.log_level
        if self.quiet and state.in_force.sources["log_level"] == "default":
            level = "warning"
        log_lines.set_up(level, state.settings.log_format)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own, then what all have; the engine's, which have good defaults, where they are asked for."""
        own, common = list[tuple[str, str]](), list[tuple[str, str]]()
        for param in self.get_params(ctx):
            if not isinstance(param, click.Option) or param.name in ENGINE_KEYS:
                continue
            if (record := param.get_help_record(ctx)) is not None:
                (common if {*param.opts} & COMMON else own).append(record)
        for title, records in (("Options", own), ("Options of all commands", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_epilog(formatter, self.examples, self.exit_codes)


class CdpGroup(click.Group):
    """A group with EXAMPLES and EXIT STATUS."""

    def __init__(self, *args: Any, examples: Sequence[tuple[str, str]], exit_codes: Iterable[int], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.examples, self.exit_codes = examples, tuple(exit_codes)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_epilog(formatter, self.examples, self.exit_codes)


def _write_epilog(formatter: click.HelpFormatter, examples: Sequence[tuple[str, str]],
                  exit_codes: Iterable[int]) -> None:
    with formatter.section("Examples"):
        for line, meaning in examples:
            formatter.write(f"{'':{formatter.current_indent}}{line}\n")
            formatter.write(f"{'':{formatter.current_indent + 4}}{meaning}\n")
    with formatter.section("Exit status"):
        formatter.write_dl([(str(code), exits.MEANING[code]) for code in exit_codes])


def command(group: click.Group, name: str, **attrs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Register a function as a command of `group`; it gets the State first, then its parameters."""

    def wrap(function: Callable[..., Any]) -> click.Command:
        made = click.command(name, cls=CdpCommand, **attrs)(click.pass_obj(function))
        group.add_command(made)
        return cast(click.Command, made)

    return wrap


class Root(click.Group):
    """The top group: orders the commands, and turns errors into one line."""

    ORDER = ("create", "serve", "list", "status", "top", "events", "capture", "info", "window", "explain", "bookmark",
             "bookmarks", "pins", "policy", "prune", "space", "records", "activity", "history", "diff", "bisect",
             "files", "cat", "versions", "shell", "image", "group", "backup", "archive", "standby", "export", "import",
             "restore", "undo", "restores", "adopt", "detach", "resize", "delete", "check", "trace", "replay", "ha",
             "gateway", "tsd", "conformance", "bench", "config")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.params += _common(root=True)

    MODULES: ClassVar[dict[str, tuple[str, ...]]] = {"import": ("import_",),
                                                     "trace": ("trace_convert", "trace_formats", "trace_info")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.ORDER)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Loads its module: all of them together take a third of the time of a short command."""
        if name in self.ORDER:      # a group may be here without its commands: 'replay' imports the module of 'trace'
            for module in self.MODULES.get(name, (name,)):
                import_module(f"cdp.cli.{module}")
        return super().get_command(ctx, name)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, **extra: Any) -> Any:
        """As click's, which has words of its own for an interrupt and for a reader that went away."""
        state = State(no_stdout=sys.stdout is None)
        _open_standard_files()
        if instruction := os.environ.get(COMPLETE):
            from click.shell_completion import shell_complete

            sys.exit(shell_complete(self, {}, "cdp", COMPLETE, instruction))
        words = list(sys.argv[1:] if args is None else args)
        try:
            _check_text(words)
            try:
                with self.make_context("cdp", words, obj=state, **extra) as ctx:
                    code = self.invoke(ctx)
            except click.exceptions.Exit as done:
                code = done.exit_code
            sys.stdout.flush()
        except BaseException as error:  # noqa: BLE001  (the last line of defence: the user sees one line)
            code = report(error, state.debug)
        finally:
            state.late.close()
            drop_unwritten()
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else exits.OK)


def _check_text(args: Sequence[str]) -> None:
    """Names go into files and replies, which are UTF-8."""
    for arg in args:
        if any("\ud800" <= c <= "\udfff" for c in arg):
            raise InvalidRequest(f"{arg!r} is not text in UTF-8",
                                 "use such names only; a locale such as C.UTF-8 has to be set for them")


def _open_standard_files() -> None:
    """Where standard input, output or error is closed, the next file opened would take its place, and what is printed
    would end up in a volume: the null device takes it instead."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def report(error: BaseException, debug: bool) -> int:
    """Report an error on standard error; returns the exit status."""
    if isinstance(error, SystemExit):
        raise error
    if debug and not isinstance(error, click.ClickException):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        say(error.format_message())
        return exits.USAGE
    if isinstance(error, BrokenPipeError):
        return exits.BROKEN_PIPE    # nobody reads standard output any more
    text, code = _told(error)
    line = f"error: {' '.join(text.split())}"
    if not log_lines.said_as_json(line, logging.ERROR):
        say(f"cdp: {line}")
    return code


def _told(error: BaseException) -> tuple[str, int]:
    if isinstance(error, CdpError):
        error = explained(error)
        return f"{error.message}; {error.hint or _next_step(error)}", error.exit_code
    if isinstance(error, click.UsageError):
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
        where = error.ctx.command_path if error.ctx else "cdp"
        return f"{message}; '{where} --help' shows how it is written", exits.USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), exits.USAGE
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted", exits.INTERRUPTED
    if isinstance(error, OSError):
        return _told_os(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRA_OF:
        return _told(missing(error.name))
    if isinstance(error, MemoryError):
        return "not enough memory; lower pool_bytes, then repeat", exits.UNAVAILABLE
    return f"internal error: {type(error).__name__}: {error}; repeat with --debug and report it", exits.OTHER


def _next_step(error: CdpError) -> str:
    """What to do about an error that does not say so itself."""
    if any(why in error.message for why in ("Permission denied", "Operation not permitted", "Read-only file system")):
        return "run as a user who may, or choose another path"
    if os.strerror(errno.EMFILE) in error.message:
        return MORE_FILES
    match error.exit_code:
        case exits.CORRUPT:
            return "run 'cdp check' on the volume"
        case exits.NO_SPACE:
            return "free space, then repeat"
        case exits.BUSY:
            return "wait for it, then repeat"
        case exits.UNAVAILABLE:
            return "see the system's log"
    return "see 'cdp --help'"


def _told_os(error: OSError) -> tuple[str, int]:
    what = f"{error.filename}: " if error.filename else ""
    text = f"{what}{error.strerror or error}"
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"{text}; check the path", exits.NOT_FOUND
        case errno.EEXIST | errno.EISDIR | errno.EINVAL | errno.ENAMETOOLONG:
            return f"{text}; choose another path", exits.USAGE
        case errno.ENOSPC | errno.EDQUOT:
            return f"{text}; free space, then repeat", exits.NO_SPACE
        case errno.EFBIG:
            return f"{text}; the file system, or a limit (ulimit -f), allows no larger file", exits.NO_SPACE
        case errno.EMFILE:
            return f"{text}; {MORE_FILES}", exits.UNAVAILABLE
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return f"{text}; run as a user who may, or choose another path", exits.UNAVAILABLE
    return f"{text}; see the system's log", exits.UNAVAILABLE


def emit(state: State, result: Any, text: str | Iterable[str]) -> None:
    """Print `result` as JSON with --json, else `text` (or its lines)."""
    if state.as_json:
        put(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        put(text if isinstance(text, str) else "\n".join(text))


def note(text: str) -> None:
    """A line for people, on standard error."""
    if not log_lines.said_as_json(text, logging.INFO):
        say(f"cdp: {text}")


def announce(state: State, uris: Iterable[str], view: object) -> None:
    """What a server prints when clients can connect."""
    if state.as_json:
        put(json.dumps(view, indent=2))
    else:
        for uri in uris:
            put(uri)
    note("ready")
    notify(READY=1, MAINPID=os.getpid())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of left-aligned columns, two blanks apart."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def fields(title: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A title and indented `name  value` lines."""
    pairs = list(pairs)
    width = max((len(name) for name, _ in pairs), default=0)
    return [title, *(f"  {name.ljust(width)}  {value}".rstrip() for name, value in pairs)]
