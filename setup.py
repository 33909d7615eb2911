"""Build ringfeed._core, the C core in csrc/ with its Cython binding, and ringfeed._tf_op, the ops for TensorFlow.

Everything else about the package stands in pyproject.toml. Switches, as environment variables:

RINGFEED_DEBUG=1                       no optimisation, full symbols, assertions
RINGFEED_SANITIZE=address,undefined    build with these sanitizers (start Python with their library preloaded)
RINGFEED_COVERAGE=1                    count executed lines, for gcov

A switch changes no source file, so run `make clean` when you set or unset one.
"""

import os
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("RINGFEED_DEBUG") == "1"
SANITIZERS = os.environ.get("RINGFEED_SANITIZE", "")
COVERAGE = os.environ.get("RINGFEED_COVERAGE") == "1"

compile_args = ["-std=c11", "-Wall", "-Wextra", "-Werror=implicit-function-declaration", "-fvisibility=hidden"]
link_args = []
compile_args += ["-O0", "-g3", "-UNDEBUG"] if DEBUG else ["-O3", "-DNDEBUG"]
if SANITIZERS:
    compile_args += [f"-fsanitize={SANITIZERS}", "-fno-omit-frame-pointer", "-g"]
    link_args += [f"-fsanitize={SANITIZERS}"]
if COVERAGE:
    compile_args += ["--coverage"]
    link_args += ["--coverage"]

OP_SOURCES = sorted(glob("csrc/tf_op/*.c"))
CORE_SOURCES = sorted(set(glob("csrc/*/*.c")) - {*glob("csrc/model/*.c"), *OP_SOURCES})
HEADERS = ("csrc/*/*.h", "src/ringfeed/*.pxd", "src/ringfeed/binding/*.pxi")

core = Extension(
    "ringfeed._core",
    sources=["src/ringfeed/_core.pyx", *CORE_SOURCES],
    depends=sorted(path for pattern in HEADERS for path in glob(pattern)),
    include_dirs=["csrc/include", "csrc", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_22_API_VERSION")],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    libraries=["pthread", "rt"],  # both live in libc itself since glibc 2.34
)

# TensorFlow loads this one, never Python: it is no module. It needs neither's headers.
op = Extension(
    "ringfeed._tf_op",
    sources=OP_SOURCES,
    depends=glob("csrc/*/*.h"),
    include_dirs=["csrc/include", "csrc"],
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    libraries=["dl"],
)

setup(ext_modules=[*cythonize([core], build_dir="build/cython", language_level=3), op])
