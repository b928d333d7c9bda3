"""Block traces: reading every common format as one stream of records, at full speed and in constant memory.

open_trace() is the door. What is in a trace: cdp.trace.info. To fio iolog and CSV: cdp.trace.convert. Formats and
their tables: docs/traces.md. Names are loaded when they are first used: a command line that only shows its help need
not wait for numpy and polars.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdp.trace.formats import FORMATS, Format
    from cdp.trace.merging import merge
    from cdp.trace.model import RECORD, Flag, Kind, Records, Tally, TraceReader
    from cdp.trace.reader import Source, Trace, open_trace

__all__ = ["FORMATS", "RECORD", "Flag", "Format", "Kind", "Records", "Source", "Tally", "Trace", "TraceReader", "merge",
           "open_trace"]

_HOME = {
    "FORMATS": "formats", "Format": "formats", "merge": "merging", "RECORD": "model", "Flag": "model", "Kind": "model",
    "Records": "model", "Tally": "model", "TraceReader": "model", "Source": "reader", "Trace": "reader",
    "open_trace": "reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = found
    return found
