"""Block traces: reading every common format as one stream of records, at full speed and in constant memory.

open_trace() is the door. What is in a trace: cdp.trace.info. To fio iolog and CSV: cdp.trace.convert. Formats and
their tables: docs/traces.md.
"""
from cdp.trace.formats import FORMATS, Format
from cdp.trace.merge import merge
from cdp.trace.model import RECORD, Flag, Kind, Records, Tally, TraceReader
from cdp.trace.reader import Source, Trace, open_trace

__all__ = ["FORMATS", "RECORD", "Flag", "Format", "Kind", "Records", "Source", "Tally", "Trace", "TraceReader", "merge",
           "open_trace"]
