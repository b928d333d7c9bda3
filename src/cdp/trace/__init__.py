"""Block traces: reading every common format as one stream of records, at full speed and in constant memory.

open_trace() is the entry point; docs/traces.md has the formats and their tables. Names are loaded when first used: a
command line that only shows its help need not wait for numpy and polars.

    reader, merging                 open_trace: one file or many, as one stream by time
    model, formats                  records and kinds; the formats that are known
    detect, plausible               which of them a file has; what its numbers can mean
    stream, packed, archive         the bytes: plain, compressed, in an archive or a pipe, in bounded pieces
    columns                         tables that the user describes
    stages                          blkparse, blktrace: which event of a request becomes the record, by device
    text, columnar                  text formats: native parser (cdpcore.trace.parse), or polars where columns are fixed
    fixed, blktrace, dmlog          binary formats; blktrace events; write logs with their data
    complaints                      one-line messages about places in files
    info, footprint, histogram      what is in a trace; report, plot: the same as text and picture
    convert                         to a fio iolog and to CSV
    samples                         small traces of every format, written from the formats' definitions
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
