"""Who imports whom, read from the sources: the rules that keep the parts apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ld4lg_fast"
KERNEL_DOORS = {"ops", "backend"}
OUTSIDE = {"benchmarks", "scripts", "tests", "kernels", "export"}
MAX_LINES = 400

# In each chain, no module reaches a later one by any path of imports.
CHAINS = (
    ("schedules", "diffusion", "samplers", "engine", "pipeline"),
    ("layers", "denoiser", "latent_diffusion", "engine"),
    ("layers", "denoiser_v1", "latent_diffusion"),
    ("layers", "perceiver", "autoencoder", "pipeline"),
    ("errors", "weights", "autoencoder"),
)
# Nothing below reaches the parts on top.
TOP = ("pipeline", "training", "evaluation", "cli")
CORE = sorted({module for chain in CHAINS for module in chain} - set(TOP))


def sources(folder: str, pattern: str = "*.py") -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob(pattern) if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    """The name under which a file is imported: kernels/ops.py is ld4lg_fast.kernels.ops."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != PACKAGE:
        parts.insert(0, PACKAGE)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for folder in (PACKAGE, "kernels") for path in sources(folder)}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `from a import b` is a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def part(module: str) -> str:
    """The part of the package that a module belongs to: ld4lg_fast.training.loop is of training."""
    return module.split(".")[1] if "." in module else module


GRAPH: dict[str, set[str]] = {}
for _name, _path in MODULES.items():
    GRAPH.setdefault(part(_name), set()).update(
        part(other) for other in imports(_path) if other.startswith(f"{PACKAGE}.")
    )


def reachable(start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for other in GRAPH.get(waiting.pop(), set()) - seen:
            seen.add(other)
            waiting.append(other)
    return seen


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
def test_imports_go_up_the_chain(chain):
    for place, module in enumerate(chain):
        assert module in GRAPH, f"{module} is gone; change CHAINS with it"
        assert not reachable(module) & set(chain[place + 1 :]), f"{module} imports what stands on it"


@pytest.mark.parametrize("module", CORE)
def test_nothing_below_imports_the_top(module):
    assert not reachable(module) & set(TOP)


def test_the_package_enters_the_kernels_by_their_doors():
    for name, path in MODULES.items():
        if part(name) == "kernels":
            continue
        for other in imports(path):
            if other.startswith(f"{PACKAGE}.kernels"):
                assert other.split(".")[2:3] in [[door] for door in KERNEL_DOORS], (
                    f"{path.name} imports {other}"
                )


def test_kernels_import_torch_and_nothing_of_ours():
    known = sys.stdlib_module_names | {"torch", "liger_kernel"}
    for path in sources("kernels"):
        allowed = known | ({"triton"} if path.parent.name == "triton" else set())
        for other in imports(path):
            ours = other == f"{PACKAGE}.kernels" or other.startswith(f"{PACKAGE}.kernels.")
            assert ours or other.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {other}"


def test_nothing_installed_imports_the_folders_around_it():
    for path in MODULES.values():
        for other in imports(path):
            assert other.split(".")[0] not in OUTSIDE, f"{path.relative_to(ROOT)} imports {other}"


def test_the_exported_runtime_needs_three_packages():
    known = sys.stdlib_module_names | {"numpy", "onnxruntime", "tokenizers", "ld4lg_runtime"}
    for path in sources("export/runtime"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert all(name.split(".")[0] in known for name in names), f"{path.name} imports {names}"


def test_kernels_have_no_init_file():
    # transformers would take a folder with one for an unrelated package of that name.
    assert not list((ROOT / "kernels").rglob("__init__.py"))


def test_files_stay_short():
    folders = (PACKAGE, "kernels", "export", "benchmarks", "scripts", "tests")
    files = [
        path for folder in folders for kind in ("*.py", "*.cpp", "*.h") for path in sources(folder, kind)
    ]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long, f"longer than {MAX_LINES} lines: {long}"


def test_importing_the_package_and_its_command_does_not_import_torch():
    code = f"import sys, {PACKAGE}.cli; print('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
