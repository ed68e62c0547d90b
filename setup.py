"""Build the Cython kernels of crfs: bodies in pyx/, headers and stubs in crfs/_native/.

CRFS_WERROR=1 makes every warning of Cython and of the compiler an error (the project's own CI).
CRFS_DEBUG=1 turns bounds checks on and optimisation off.
"""

import os

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

WERROR = os.environ.get("CRFS_WERROR") == "1"
DEBUG = os.environ.get("CRFS_DEBUG") == "1"
KERNELS: dict[str, list[str]] = {
    "inflate": ["deflate", "crypto"],
    "deflate": ["deflate"],
    "layerindex": [],
    "tocindex": [],
    "union": [],
    "index": [],
    "pagecache": [],
    "turns": [],
    "answers": [],
    "newfiles": [],
    "lowerfiles": [],
    "lowernames": [],
    "listing": [],
    "copies": [],
    "keeping": [],
    "status": [],
    "contents": ["crypto"],
    "erofs": [],
    "pycode": [],
}


def extension(name: str, libraries: list[str]) -> Extension:
    """The kernel `crfs._native.NAME`, compiled as C++ from pyx/NAME.pyx."""
    flags = ["-std=c++17", "-O0" if DEBUG else "-O3", "-Wall", "-Wextra", "-Wno-cpp"]
    # Cython's own glue leaves parameters and type members unset; those two say nothing about our code
    flags += ["-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    if WERROR:
        flags.append("-Werror")
    return Extension(
        f"crfs._native.{name}",
        [f"pyx/{name}.pyx"],
        language="c++",
        libraries=libraries,
        # for what a kernel shows to the dynamic linker
        define_macros=[("CYTHON_EXTERN_C", 'extern "C"')],
        extra_compile_args=flags,
    )


Options.warning_errors = WERROR
setup(
    ext_modules=cythonize(
        [extension(name, libraries) for name, libraries in KERNELS.items()],
        build_dir="build",
        compiler_directives={
            "language_level": "3",
            "boundscheck": DEBUG,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "embedsignature": True,
        },
    ),
)
