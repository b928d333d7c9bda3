"""Builds the Cython core: every src/cdpcore/*.pyx is one extension module, linked with the C leaves of src/cdpcore/c.

Environment
    CDP_PLAIN_POSIX=1   no Linux-only system calls (the OS table's plain twin)
    CDP_SANITIZE=LIST   e.g. "address,undefined" or "thread": instrumented build for `make sanitize`
    CDP_DEBUG=1         -O1 and the dear assertions
"""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = Path("src/cdpcore")
C_DIR = CORE / "c"

cflags = ["-std=c11", "-g", "-Wall", "-Wno-unused-function", "-fvisibility=hidden"]
cflags += ["-O1", "-DCDP_DEBUG=1"] if os.environ.get("CDP_DEBUG") else ["-O3"]
ldflags: list[str] = []
macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", "1"), ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if os.environ.get("CDP_PLAIN_POSIX"):
    macros.append(("CDP_PLAIN_POSIX", "1"))
if sanitize := os.environ.get("CDP_SANITIZE"):
    cflags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer"]
    ldflags += [f"-fsanitize={sanitize}"]

c_sources = sorted(str(p) for p in C_DIR.glob("*.c"))
c_headers = sorted(str(p) for p in C_DIR.glob("*.h"))
extensions = [
    Extension(
        f"cdpcore.{pyx.stem}",
        [str(pyx)],
        include_dirs=[str(C_DIR)],
        define_macros=macros,
        extra_compile_args=[*cflags, "-Wno-unused-variable", "-Wno-unused-but-set-variable"],
        extra_link_args=ldflags,
        libraries=["cdpcore_c", "pthread"],
        depends=[*c_sources, *c_headers, *map(str, CORE.glob("*.pxd"))],
    )
    for pyx in sorted(CORE.glob("*.pyx"))
]

setup(
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
    libraries=[
        ("cdpcore_c", {"sources": c_sources, "include_dirs": [str(C_DIR)], "macros": macros,
                       "cflags": [*cflags, "-fPIC"], "obj_deps": {"": c_headers}}),
    ],
    ext_modules=cythonize(
        extensions,
        compiler_directives={"language_level": "3", "boundscheck": False, "wraparound": False, "cdivision": True,
                             "initializedcheck": False, "embedsignature": True, "auto_pickle": False,
                             "autotestdict": False},
    ),
)
