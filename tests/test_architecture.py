"""Rules of the repository, read from the sources: which package may import which, and how long files may be."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ld4lg_fast"
OUTSIDE = {"benchmarks", "scripts", "tests", "kernels", "export"}
OF_KERNELS = {"ops", "backend"}  # what the package may import of the kernels
MAX_LINES = 350

# Each room imports from rooms that stand before it, and from the kernels and the exported runtime below all.
ROOMS = (
    *(
        "options",
        "terminal",
        "checkpoints",
        "models",
        "diffusion",
        "engine",
        "decoding",
        "autoencoder",
        "data",
    ),
    *("pipeline", "serving", "published", "training", "ray", "evaluation", "cli"),
)
LOOSE = {"__init__", "_version", "errors"}
WITHOUT_CODE = {"configs", "shipped_models"}


def sources(folder: str, pattern: str = "*.py") -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob(pattern) if "__pycache__" not in path.parts)


def module_name(path: Path) -> str:
    """The name under which a file is imported: kernels/ops.py is ld4lg_fast.kernels.ops."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] != PACKAGE:
        parts.insert(0, PACKAGE)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for folder in (PACKAGE, "kernels", "export") for path in sources(folder)}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too; `from a import b` is a.b where that is a module."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                assert "export/runtime" in path.as_posix(), (
                    f"{path.relative_to(ROOT)}:{node.lineno} has a relative import"
                )
                above = package.split(".")[: len(package.split(".")) + 1 - node.level]
                module = ".".join(filter(None, (*above, module)))
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole in MODULES else module


def room(module: str) -> str:
    """The room that a module belongs to: ld4lg_fast.training.loop is of training."""
    return module.split(".")[1] if "." in module else module


IMPORTS = {name: {other for other in imports(path) if other in MODULES} for name, path in MODULES.items()}


def test_every_file_is_in_a_room():
    found = {path.name if path.is_dir() else path.stem for path in (ROOT / PACKAGE).iterdir()}
    found -= {"__pycache__", "py"}
    assert found - {"kernels", "export"} == {*ROOMS, *LOOSE, *WITHOUT_CODE}


def test_every_room_has_a_docstring_with_its_imports():
    for name in ROOMS:
        text = (ROOT / PACKAGE / name / "__init__.py").read_text(encoding="utf-8")
        assert "Imports " in (ast.get_docstring(ast.parse(text)) or ""), f"{name}/__init__.py"


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_downwards(name):
    above = ROOMS[ROOMS.index(name) + 1 :]
    for module, others in IMPORTS.items():
        if room(module) == name:
            wrong = {other for other in others if room(other) in above}
            assert not wrong, f"{module} imports {wrong} of a room above"


def test_no_two_files_import_each_other():
    mutual = [(one, other) for one, others in IMPORTS.items() for other in others if one in IMPORTS[other]]
    assert not mutual


def test_rooms_import_only_the_runtime_of_the_export():
    for module, others in IMPORTS.items():
        if room(module) not in ("export", "cli"):
            wrong = {
                o for o in others if room(o) == "export" and not o.startswith(f"{PACKAGE}.export.runtime")
            }
            assert not wrong, f"{module} imports {wrong}"


def test_tests_are_in_folders_of_the_same_names():
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert folders == {*ROOMS, "kernels", "export", "benchmarks", "fuzz"}


def test_the_package_imports_only_ops_and_backend_of_the_kernels():
    for name, path in MODULES.items():
        if room(name) in ("kernels", "export"):
            continue
        for other in imports(path):
            if other.startswith(f"{PACKAGE}.kernels"):
                assert other.split(".")[2:3] in [[name] for name in OF_KERNELS], (
                    f"{path.name} imports {other}"
                )


def test_kernels_import_torch_and_nothing_of_ours():
    known = sys.stdlib_module_names | {"torch", "liger_kernel"}
    for path in sources("kernels"):
        allowed = known | ({"triton"} if path.name == "triton.py" else set())
        for other in imports(path):
            ours = other == f"{PACKAGE}.kernels" or other.startswith(f"{PACKAGE}.kernels.")
            assert ours or other.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {other}"


def test_nothing_installed_imports_the_folders_around_it():
    for path in MODULES.values():
        for other in imports(path):
            assert other.split(".")[0] not in OUTSIDE, f"{path.relative_to(ROOT)} imports {other}"


def test_the_exported_runtime_needs_three_packages_and_its_server_more():
    known = sys.stdlib_module_names | {"numpy", "onnxruntime", "tokenizers", "ld4lg_runtime"}
    of_server = known | {"fastapi", "starlette", "uvicorn", "pydantic", "pydantic_core", "prometheus_client"}
    for path in sources("export/runtime"):
        allowed = of_server if path.parent.name == "serving" else known
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            assert all(name.split(".")[0] in allowed for name in names), f"{path.name} imports {names}"


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
