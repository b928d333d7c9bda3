"""config show: the settings in force and where each comes from."""
from cdp.cli import cli, exits
from cdp.cli.base import ENGINE_KEYS, SERVER_KEYS, State, command, emit, table
from cdp.settings import KEYS


@cli.group("config")
def config() -> None:
    """The settings in force.

    They come from a TOML file (--config or $CDP_CONFIG), CDP_... variables and flags, in rising precedence.
    """


@command(config, "show", setting_flags=(*ENGINE_KEYS, *SERVER_KEYS), examples=[
    ("cdp config show", "every setting, its value and where it comes from"),
    ("CDP_POOL_BYTES=128MiB cdp config show --config cdp.toml", "what a command run like this would use"),
], exit_codes=[exits.OK, exits.USAGE, exits.NOT_FOUND])
def show(state: State) -> None:
    """Show the settings in force."""
    in_force = state.in_force
    assert in_force is not None
    rows, listed = [], []
    for key in KEYS.values():
        value, source = getattr(in_force.settings, key.name), in_force.sources[key.name]
        rows.append((key.name, key.format(value), source, key.range_text))
        listed.append({"key": key.name, "value": value, "unit": key.unit, "source": source, "default": key.default,
                       "range": key.range_text, "group": key.group, "doc": key.doc})
    emit(state, {"config_file": in_force.config_path, "settings": listed},
         table(("KEY", "VALUE", "SOURCE", "RANGE"), rows))
