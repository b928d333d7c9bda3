"""conformance: does a platform keep the contract of the portable API?"""
import time

import click

from cdp.cli import cli, exits
from cdp.cli.base import State, command, emit, note
from cdp.cli.output import put

FAILED = 1


@command(cli, "conformance", examples=[
    ("cdp conformance --platform local", "every rule, one line each"),
    ("cdp conformance --platform mine.platform:Mine order_per_sender", "one rule, on a platform that is not installed"),
    ("pytest --pyargs cdp.conformance --platform local", "the same rules as tests"),
], exit_codes=(exits.OK, FAILED, exits.USAGE, exits.NOT_FOUND))
@click.argument("rules", metavar="[RULE]...", nargs=-1)
@click.option("--platform", "name", metavar="NAME", required=True,
              help="An installed platform's name, or MODULE:CLASS.")
@click.option("--list", "only_list", is_flag=True, help="Say what the rules are, and check nothing.")
def conformance(state: State, rules: tuple[str, ...], name: str, only_list: bool) -> None:
    """Check a platform against the rules of the portable API.

    A platform connects the engine with processes, buffers, I/O sources and disks (docs/porting.md). Each rule is
    checked on fresh nodes of it, in some 15 seconds altogether. Ends with status 1 where a rule is broken.
    """
    from cdp.conformance import RULES, platform
    from cdpcore.base.errors import NotFound

    if unknown := set(rules) - set(RULES):
        raise NotFound(f"no rule {min(unknown)!r}", "--list shows them")
    found = platform(name)
    chosen = [rule for rule in RULES.values() if not rules or rule.name in rules]
    results = []
    for rule in chosen:
        began, error = time.monotonic(), ""
        if not only_list:
            try:
                rule.run(found)
            except Exception as failure:    # noqa: BLE001  (whatever a platform under test raises is its failure)
                error = f"{type(failure).__name__}: {failure}"
        took = time.monotonic() - began
        results.append({"rule": rule.name, "text": rule.text, "ok": None if only_list else not error, "error": error,
                        "seconds": round(took, 3)})
        if not state.as_json:
            put(f"{rule.name}: {rule.text}" if only_list else f"{'broken' if error else 'kept':6}  {rule.name}")
            if error:
                put(f"        {error}\n        the rule: {rule.text}")
    broken = sum(bool(result["error"]) for result in results)
    if state.as_json:
        emit(state, {"platform": name, "broken": broken, "rules": results}, "")
    elif not only_list:
        note(f"{name}: {len(results) - broken} of {len(results)} rules kept")
    if broken:
        click.get_current_context().exit(FAILED)
