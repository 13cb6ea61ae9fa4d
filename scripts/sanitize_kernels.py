"""Builds the C++ kernels with AddressSanitizer and UndefinedBehaviorSanitizer, and runs their tests with them.

python scripts/sanitize_kernels.py [--build FOLDER] [-- PYTEST ARGUMENTS]

It needs CMake, GCC or Clang with both sanitizers' libraries, and the package with its test extra. The first access
outside of a tensor, use of freed memory or undefined operation ends the process, with a report of where it was. The
library that is installed is not touched: the package in that process alone looks for its library in FOLDER first.

Only our library is instrumented. Python and torch are not, but their memory comes from the sanitizer, which is loaded
before them: elements beyond a tensor's ends are noticed. What they never give back at exit is no leak of ours, and at
exit is when leaks are looked for; so that is off.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ld4lg_fast.kernels

ROOT = Path(__file__).parents[1]
TESTS = ("test_kernel_fuzz", "test_kernel_arguments", "test_kernels", "test_decoding_kernels", "test_linear")
TESTS += ("test_linear_cross_entropy", "test_geglu", "test_philox_normal")
# Compiled code is made by a compiler that would be watched too, and other processes have the installed library.
SKIPPED = "not compiles and not process and not reference_gradients"
# One process; what the sanitizers write is not pytest's to keep.
PYTEST = ("-n", "0", "--capture=sys", "-p", "no:faulthandler", "-p", "no:cacheprovider")
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:strict_init_order=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "PYTHONMALLOC": "malloc",  # so that what Python packs is watched, too
}


def build(folder: Path) -> None:
    """Compiles the library for every instruction set."""
    configure = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(folder),
        "-DLD4LG_SANITIZE=ON",
        "-DCMAKE_BUILD_TYPE=None",
    ]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count())], check=True)


def preloaded(folder: Path) -> str:
    """The sanitizers' libraries, which a program that was built without them has to load first."""
    cache = (folder / "CMakeCache.txt").read_text(encoding="utf-8")
    (compiler,) = (
        line.split("=")[1] for line in cache.splitlines() if line.startswith("CMAKE_CXX_COMPILER:")
    )
    names = ("libasan.so", "libubsan.so")
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], check=True, capture_output=True, text=True)
        for name in names
    ]
    return " ".join(done.stdout.strip() for done in found)


def run_tests(folder: Path, arguments: list[str]) -> int:
    """Runs pytest in this process, whose package finds its library in ``folder``."""
    import pytest

    ld4lg_fast.kernels.__path__ = [str(folder), *ld4lg_fast.kernels.__path__]
    from ld4lg_fast.kernels import native

    assert native.LOAD_ERROR is None and Path(native._library._name).parent == folder, native.LOAD_ERROR
    return pytest.main(arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--build", type=Path, help="where to build, and what was built stays; else a temporary folder"
    )
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help="for pytest, in place of the kernels' tests")
    options = parser.parse_args()
    if options.run:
        return run_tests(options.build, options.arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.build or Path(temporary)).resolve()
        build(folder)
        tests = [str(ROOT / "tests" / f"{name}.py") for name in TESTS]
        arguments = options.arguments or ["-q", "-k", SKIPPED, *tests]
        command = [sys.executable, __file__, "--build", str(folder), "--run", "--", *PYTEST, *arguments]
        return subprocess.run(
            command, env=os.environ | OPTIONS | {"LD_PRELOAD": preloaded(folder)}
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
