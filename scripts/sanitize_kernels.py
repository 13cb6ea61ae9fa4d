"""Builds the C++ kernels with AddressSanitizer and UndefinedBehaviorSanitizer, and runs their tests with them.

python scripts/sanitize_kernels.py [--build FOLDER] [-- PYTEST ARGUMENTS]

It needs CMake with Ninja or Make, GCC or Clang with both sanitizers' libraries, and the package with its test extra.
The first access outside of a tensor, use of freed memory or undefined operation ends the process, with a report of
where it was. The library that is installed is not touched: the package of these processes alone looks for its library
in FOLDER first.

Only our library is instrumented. Python and torch are not, but their memory comes from the sanitizer, which is loaded
before them: elements beyond a tensor's ends are noticed. Leaks are looked for at exit, where what Python and torch
never give back would be all that is found; so that is off.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ld4lg_fast.kernels

ROOT = Path(__file__).parents[1]
TESTS = (  # run side by side
    ("kernels/test_kernels", "kernels/test_linear_cross_entropy"),
    (
        "kernels/test_kernel_fuzz",
        "kernels/test_kernel_arguments",
        "kernels/test_kernel_operators",
        "engine/test_linear",
        "decoding/test_decoding_kernels",
    ),
)
# A compiler would be watched too, other processes have the installed library, and the rest calls no kernel.
SKIPPED = "not compiles and not interpreter and not once_ended and not finite_differences and not proper"
# One process; what the sanitizers write is not pytest's to keep.
PYTEST = ("-n", "0", "--capture=sys", "-p", "no:faulthandler", "-p", "no:cacheprovider", "-q")
ENVIRONMENT = {
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
    configure += ["-G", "Ninja"] if shutil.which("ninja") else []
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count())]):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
        )
        if done.returncode:
            sys.exit(done.stdout)


def preloaded(folder: Path) -> str:
    """The sanitizers' libraries, which a program that was built without them has to load first."""
    cache = (folder / "CMakeCache.txt").read_text(encoding="utf-8").splitlines()
    (compiler,) = (line.split("=", 1)[1] for line in cache if line.startswith("CMAKE_CXX_COMPILER:"))
    found = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"],
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        for name in ("libasan.so", "libubsan.so")
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
        environment = os.environ | ENVIRONMENT | {"LD_PRELOAD": preloaded(folder)}
        shares = [["-k", SKIPPED, *(str(ROOT / "tests" / f"{name}.py") for name in names)] for names in TESTS]
        running = [
            subprocess.Popen(
                [sys.executable, __file__, "--build", str(folder), "--run", "--", *PYTEST, *share],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
            )
            for share in ([options.arguments] if options.arguments else shares)
        ]
        for process in running:
            print(process.communicate()[0], flush=True)
        return max(abs(process.returncode) for process in running)


if __name__ == "__main__":
    sys.exit(main())
