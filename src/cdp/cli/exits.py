"""Exit statuses of `cdp`: the one table, shown in every command's help and in docs/cli.md.

2 to 8 are the exit_code of the error kinds in cdpcore.base.errors (a test holds the two together); 2 is also click's
for a wrong command line.
"""

OK, OTHER, USAGE, NOT_FOUND, REFUSED, CORRUPT, NO_SPACE, BUSY, UNAVAILABLE, ATTENTION = range(10)
INTERRUPTED = 130
BROKEN_PIPE = 141

MEANING: dict[int, str] = {
    OK: "done",
    OTHER: "a platform breaks a rule (conformance), or an error that none of the others describes (a bug: please "
           "report it)",
    USAGE: "the command line, a setting or a value is wrong; nothing was changed",
    NOT_FOUND: "no such volume, image, bookmark or file",
    REFUSED: "the point cannot be opened, or history is in the way of what was asked",
    CORRUPT: "bytes on disk are damaged",
    NO_SPACE: "no space on the device, or a configured bound is reached",
    BUSY: "another process holds the volume, or the object is in use",
    UNAVAILABLE: "the device, the server, a Python package or the permission that is needed is missing",
    ATTENTION: "a volume needs attention",
    INTERRUPTED: "interrupted by the user",
    BROKEN_PIPE: "the reader of standard output went away",
}
