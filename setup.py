"""The one extension; everything else stands in pyproject.toml."""

import os
import platform
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup

# The same optimisation whatever the Python at hand was compiled with.  Random values are the same
# wherever they are computed, whatever CFLAGS says: no multiplication and addition may become one
# instruction that rounds once.  The last two say that nobody asks for floating-point exceptions or
# errno, which would keep loops from being vectorised.  See src/core/kernels.h.  CFLAGS takes the
# place of what Python was compiled with, without which the checks in its headers would be left in
# and sums could not wrap around.
flags = ["-O3", "-DNDEBUG", "-fwrapv"]
flags += ["-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
if platform.machine() in ("i386", "i686"):
    flags += ["-msse2", "-mfpmath=sse"]

# CI compiles with VARSCOPE_WERROR=1: a warning of the C compiler is an error there.  Left out are
# three that the C code which Cython writes around ours gives: one compares the error value of an
# unsigned function as an int.
if os.environ.get("VARSCOPE_WERROR") == "1":
    flags += ["-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-unused-parameter", "-Wno-missing-field-initializers", "-Wno-sign-compare"]

# VARSCOPE_CHECKED=1 builds a core for tests: each access to memory and each arithmetic operation is
# looked at, and the assertions in it and in the headers of Python are compiled.  Who loads it has
# to preload the library of the address sanitizer; see `.ci/run sanitizers`.
checked = os.environ.get("VARSCOPE_CHECKED") == "1"
if checked:
    sanitizers = "-fsanitize=address,undefined"
    flags[:3] = ["-O1", "-g1", "-UNDEBUG", "-fno-wrapv", "-fno-omit-frame-pointer"]
    flags += [sanitizers, "-fno-sanitize-recover=all"]

# Visual C++ has other ones, and no -O3.
if sys.platform == "win32":
    flags = ["/O2", "/fp:precise"]

# Cython looks for the declarations of varscope._scopecore in a folder "varscope".  They stand
# beside their .pyx, outside the package, so that no wheel carries them: show it a copy.
declarations = Path("build/declarations/varscope")
declarations.mkdir(parents=True, exist_ok=True)
shutil.copy("src/_scopecore.pxd", declarations)

core = Extension(
    "varscope._scopecore",
    ["src/_scopecore.pyx"],
    depends=["src/_scopecore.pxd", *map(str, Path("src/core").glob("*.[ph]*"))],
    include_dirs=["src/core"],
    extra_compile_args=flags,
)
core.cython_include_dirs = [str(declarations.parent)]
if checked:
    core.extra_link_args = [sanitizers]
    core.cython_directives = {"boundscheck": True, "initializedcheck": True, "nonecheck": True}

setup(ext_modules=[core])
