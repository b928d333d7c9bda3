"""Drive block traces into volumes and servers, and check every moment.

    engine                 a trace's requests onto disks, at its pace or as fast as they go
    shape                  which of them, where: a pure function of the records
    content, payloads      what is written: a pattern that says who wrote it, or the trace's own data
    to_volumes, to_server  the two kinds of disk
    session, verify        what a replay leaves beside its volume, and the proof that every moment is right
    report, plot           the result, as JSON, as text, as a picture
"""
