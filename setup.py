"""Builds the Cython core: every .pyx below src/cdpcore is one extension module, linked with the C beside it
(src/cdpcore/*/*.c).

C and Cython include headers as "package/name.h", from src/cdpcore; generated C goes to build/cython, never into the
source tree.

Environment
    CDP_PLAIN_POSIX=1   no Linux-only system calls (the OS table's plain twin)
    CDP_SANITIZE=LIST   e.g. "address,undefined" or "thread": instrumented build for `make sanitize`
    CDP_DEBUG=1         -O1 -g, for a debugger
"""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SRC = Path("src")
CORE = SRC / "cdpcore"
GENERATED = "build/cython"
SHARED = "cdpcore._shared"      # what Cython would repeat in every module with typed memoryviews: 1 MB of C each

# Off the path of a request: -O2 builds them in two thirds of the time. All others, and the C, are built with -O3.
COLD = {"base.checksum", "base.errors", "base.histogram", "base.stages", "base.workers", "bench.plain_file",
        "bench.ram_disk", "channel.channel", "channel.mdpacket", "channel.packets", "channel.python_target",
        "index.inspect", "index.runs", "log.clock_steps", "log.sealing", "log.segment_file", "log.sums_file",
        "log.summaries", "log.tail", "system.file", "system.io_queue", "system.os", "system.partial",
        "trace.check", "volume.changes", "volume.flush_tap", "volume.history", "volume.rewrites"}

debug, sanitize = os.environ.get("CDP_DEBUG"), os.environ.get("CDP_SANITIZE")
cflags = ["-std=c11", "-Wall", "-Wno-unused-function", "-fvisibility=hidden"]
cflags += ["-O1", "-g"] if debug else ["-O3", "-g" if sanitize else "-g0"]
ldflags: list[str] = []
macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", "1"), ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if os.environ.get("CDP_PLAIN_POSIX"):
    macros.append(("CDP_PLAIN_POSIX", "1"))
if sanitize:
    cflags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"]
    ldflags += [f"-fsanitize={sanitize}"]

c_sources = sorted(map(str, CORE.rglob("*.c")))
c_headers = sorted(map(str, CORE.rglob("*.h")))


def extension(name: str, source: str, cold: bool) -> Extension:
    return Extension(
        name,
        [source],
        include_dirs=[str(CORE)],
        define_macros=macros,
        extra_compile_args=[*cflags, *(["-O2"] if cold and not debug else []), "-Wno-unused-variable",
                            "-Wno-unused-but-set-variable"],
        extra_link_args=ldflags,
        libraries=["cdpcore_c", "pthread"],
        depends=[*c_sources, *c_headers, *map(str, CORE.rglob("*.pxd"))],
    )


modules = {".".join(pyx.relative_to(CORE).with_suffix("").parts): pyx for pyx in sorted(CORE.rglob("*.pyx"))}
assert COLD <= modules.keys(), COLD - modules.keys()
extensions = [extension(f"cdpcore.{name}", str(pyx), name in COLD) for name, pyx in modules.items()]
extensions.append(extension(SHARED, f"{CORE}/_shared.c", cold=True))

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    libraries=[
        ("cdpcore_c", {"sources": c_sources, "include_dirs": [str(CORE)], "macros": macros,
                       "cflags": [*cflags, "-fPIC"], "obj_deps": {"": c_headers}}),
    ],
    ext_modules=cythonize(
        extensions,
        build_dir=GENERATED,
        shared_utility_qualified_name=SHARED,
        nthreads=os.cpu_count() or 1,
        compiler_directives={"language_level": "3", "boundscheck": False, "wraparound": False, "cdivision": True,
                             "initializedcheck": False, "embedsignature": True, "auto_pickle": False,
                             "autotestdict": False},
    ),
)
