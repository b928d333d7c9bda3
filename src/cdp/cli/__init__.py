"""The command line `cdp`: one module a command or group, named after it, each registering on the group made here.

Root.get_command loads it when it is named. What commands share is beside them: base (common options, help, errors),
exits, output, progress, stream, refs (paths and points), clients (NBD clients that are connected), extras (what is not
installed), record_writers, transfer, conversion, delta, delta_file, backup_copy and archived (content into and out of
volumes), probes and ext4_probe (of a bisection), group_output, group_export and quiesce (of groups), reference,
admin_reference and python_reference (docs), man (manual pages), completion (of a shell).
"""
import click

from cdp.cli.base import Root


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from cdp import __version__

        click.echo(f"cdp {__version__}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
              help="Print the version.")
def cli() -> None:
    """A time machine for block volumes: every write is kept, any past moment opens in milliseconds.

    POINT is a moment of a volume: an age (-90s, -10m, -2h, -3d), a time (2026-11-23T10:00:00Z; no zone: local time),
    a bookmark's name, #SEQ, or now. It means the state after the last write at or before that moment.

    A volume that 'cdp serve' holds is reached through its server, and commands work the same either way. Only adopt,
    delete, detach, resize and check --rebuild are refused then.
    """


def main() -> None:
    """Entry point of the `cdp` script."""
    cli()


__all__ = ["cli", "main"]
