"""Rules for reading files, checked on the sources: no content of a file is executed or followed.

Each rule is about calls, found in the syntax tree of every module that is installed or run; a call that breaks it names
file and line.
"""

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.test_architecture import ROOT, sources

FOLDERS = ("ld4lg_fast", "export", "kernels", "benchmarks", "scripts")
OWN_CLASSES = {"TextDiffusionPipeline", "LanguageAutoencoder", "cls", "pipe"}  # whose from_pretrained is ours
CONSOLE = "ld4lg_fast/terminal/console.py"
# Who shows texts, and who says that it is not there.
DISPLAY = (
    "export/runtime/text_display.py",
    *(f"export/runtime/folder/{name}.py" for name in ("generate", "serve")),
)
# Modules that are imported by a name that the package itself holds.
NAMED_IMPORTS = {
    *("ld4lg_fast/__init__.py", "ld4lg_fast/evaluation/__init__.py", "ld4lg_fast/evaluation/unavailable.py"),
    "ld4lg_fast/models/attention_backends.py",
    *("kernels/library.py", "kernels/reference.py", "kernels/case_table.py", "benchmarks/ops.py"),
}
# Who passes on the consent of ``autoencoder.trust_remote_code``.
CONSENTED = ("ld4lg_fast/checkpoints/language_model.py", "ld4lg_fast/checkpoints/tokenizer.py")
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in FOLDERS
    for path in sources(folder)
}


def dotted(node: ast.AST) -> str:
    """``torch.load`` of that expression; of anything else than names and attributes the last part, after a dot."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func), node


def says(call: ast.Call, keyword: str, value: object) -> bool:
    """Whether a call has that keyword with that constant, written out."""
    return any(
        given.arg == keyword and isinstance(given.value, ast.Constant) and given.value.value is value
        for given in call.keywords
    )


def passes_on(call: ast.Call, keyword: str) -> bool:
    """Whether a call has that keyword with the variable of its name."""
    return any(given.arg == keyword and dotted(given.value) == keyword for given in call.keywords)


def is_own(name: str) -> bool:
    return name.split(".")[0] in OWN_CLASSES


def of_transformers(name: str) -> bool:
    """``X.from_pretrained``, and the other ways in which transformers makes what a file names."""
    last = name.rpartition(".")[2]
    return last == "from_pretrained" and not is_own(name) or name.startswith("Auto") and last == "from_config"


# Sentence -> whether a call breaks it, by the dotted name, the call and the file.
RULES: dict[str, Callable[[str, ast.Call, str], bool]] = {
    "transformers gets trust_remote_code=False": lambda name, call, file: (
        of_transformers(name)
        and not says(call, "trust_remote_code", False)
        and not (file in CONSENTED and passes_on(call, "trust_remote_code"))
    ),
    "code beside a model is run by consent alone": lambda name, call, file: says(
        call, "trust_remote_code", True
    ),
    "torch.load unpickles weights only": lambda name, call, file: (
        name == "torch.load" and not says(call, "weights_only", True)
    ),
    "numpy loads no pickles": lambda name, call, file: (
        name in ("np.load", "numpy.load") and not says(call, "allow_pickle", False)
    ),
    "nothing is unpickled": lambda name, call, file: (
        name.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle")
    ),
    "no text is run as Python": lambda name, call, file: (
        name in ("eval", "exec", "compile", "__import__", "runpy.run_path", "runpy.run_module")
    ),
    "modules are imported by names in the package": lambda name, call, file: (
        name.rpartition(".")[2] == "import_module"
        and not isinstance(call.args[0], ast.Constant)
        and file not in NAMED_IMPORTS
    ),
    "YAML makes no objects": lambda name, call, file: (
        name.startswith("yaml.")
        and name not in ("yaml.safe_load", "yaml.safe_dump")
        and not any(given.arg == "Loader" and "Safe" in dotted(given.value) for given in call.keywords)
    ),
    "no shell": lambda name, call, file: (
        name in ("os.system", "os.popen", "subprocess.getoutput") or says(call, "shell", True)
    ),
    "archives are not unpacked": lambda name, call, file: (
        name.rpartition(".")[2] in ("extractall", "extract", "unpack_archive")
    ),
    "configs make no objects": lambda name, call, file: (
        name.rpartition(".")[2] in ("instantiate", "get_class", "get_method", "get_object")
    ),
    "of a repository named files are downloaded": lambda name, call, file: (
        name.rpartition(".")[2] == "snapshot_download"
        and not any(given.arg == "allow_patterns" for given in call.keywords)
    ),
    "printed is what is constant, a number, or made for a terminal": lambda name, call, file: (
        name == "print"
        and file.startswith(("ld4lg_fast/", "export/"))
        and file not in DISPLAY
        and not all(map(is_shown, call.args))
    ),
    "standard output is written to by print": lambda name, call, file: (
        name in ("sys.stdout.write", "sys.stderr.write", "rich.print", "pprint", "typer.echo", "typer.secho")
    ),
    "loggers are those of text_display": lambda name, call, file: (
        name == "logging.getLogger"
        and file.startswith(("ld4lg_fast/", "export/"))
        and file not in DISPLAY
        and not (
            file == "export/onnx_files.py" and all(isinstance(given, ast.Constant) for given in call.args)
        )
    ),
}

# Functions of `text_display` and of the help texts, whose results are for a terminal.
SHOWN = {"displayed", "list_item", "json_text", "train_help", "evaluate_help"}
NUMERIC = tuple("dfg%,")


def is_shown(node: ast.AST) -> bool:
    """Whether an expression can only be text that is harmless on a terminal."""
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Starred):
        return is_shown(node.value)
    if isinstance(node, ast.JoinedStr):
        return all(is_shown(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        form = node.format_spec.values[0].value if node.format_spec else ""
        return form.endswith(NUMERIC) or node.conversion == ord("r") or is_shown(node.value)
    if isinstance(node, ast.IfExp):
        return is_shown(node.body) and is_shown(node.orelse)
    if isinstance(node, ast.Call):
        name = dotted(node.func)
        if name == "map":
            return dotted(node.args[0]) in SHOWN
        if isinstance(node.func, ast.Attribute) and node.func.attr == "join":
            return is_shown(node.func.value) and is_shown(node.args[0])
        return name in SHOWN or name == "len"
    return False


@pytest.mark.parametrize("rule", RULES)
def test_what_is_read_is_data(rule):
    breaks = RULES[rule]
    found = [
        f"{file}:{call.lineno}: {ast.unparse(call)[:100]}"
        for file, tree in TREES.items()
        for name, call in calls(tree)
        if breaks(name, call, file)
    ]
    assert not found, f"{rule}: {found}"


BROKEN = {
    "transformers gets trust_remote_code=False": "AutoModel.from_pretrained(x, **options)",
    "code beside a model is run by consent alone": "load_pretrained(x, trust_remote_code=True)",
    "torch.load unpickles weights only": "torch.load(path)",
    "numpy loads no pickles": "np.load(path, allow_pickle=True)",
    "nothing is unpickled": "pickle.loads(x)",
    "no text is run as Python": "eval(x)",
    "modules are imported by names in the package": "import_module(x)",
    "YAML makes no objects": "yaml.load(x)",
    "no shell": "subprocess.run(x, shell=True)",
    "archives are not unpacked": "archive.extractall(x)",
    "configs make no objects": "hydra.utils.instantiate(x)",
    "of a repository named files are downloaded": "huggingface_hub.snapshot_download(x)",
    "printed is what is constant, a number, or made for a terminal": "print(f'{x}')",
    "standard output is written to by print": "sys.stdout.write(x)",
    "loggers are those of text_display": "logging.getLogger(__name__)",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_can_be_broken(rule):
    ((name, call),) = list(calls(ast.parse(BROKEN[rule])))[:1]
    assert RULES[rule](name, call, "ld4lg_fast/somewhere.py")


def test_one_module_imports_rich():
    """Tables may be made anywhere, as their cells are shown by the console; all else of rich may take markup."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                names = {alias.name for alias in node.names}
                harmless = {"Table", "BarColumn", "Progress", "TimeElapsedColumn", "TimeRemainingColumn"}
                assert file == CONSOLE or file.startswith("benchmarks/") or names <= harmless, (file, names)
