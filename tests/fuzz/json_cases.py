"""Cases of JSON and YAML files: keys deleted, of another type, out of range, nested; files that are not valid."""

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.fuzz.cases import DAMAGE, VALUE, Case, generator, rewrite, sampled

DEEP = "[" * 100_000 + "]" * 100_000
PLACEHOLDER = "the value is put here"
MANY = 16  # of a container with more entries only some are changed
SOME = 4

Key = tuple[str | int, ...]

# Of the values below every key takes these, and so many of the others.
ALWAYS = (
    *("null", "true", "zero", "minus_one", "10**9", "10**30", "nan", "infinity", "string", "empty_string"),
    *("empty_list", "empty_object", "path", "as_string", "plus_one", "in_a_list", "shorter"),
)
OTHERS = 5

VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one": 1,
    "minus_one": -1,
    "half": 0.5,
    "large": 1000,
    "10**9": 10**9,
    "2**31": 2**31,
    "2**63": 2**63,
    "10**30": 10**30,
    "-10**9": -(10**9),
    "1e300": 1e300,
    "1e-300": 1e-300,
    "nan": math.nan,
    "infinity": math.inf,
    "-infinity": -math.inf,
    "string": "x",
    "empty_string": "",
    "number_in_a_string": "3",
    "long_string": "a" * 10**6,
    "path": "../../../../etc/passwd",
    "device": "/dev/zero",
    "environment": "${oc.env:HOME}",
    "format": "%s{}{0.__class__}",
    "surrogate": "\ud800",
    "escape": "\x1b]0;title\x07",
    "empty_list": [],
    "empty_object": {},
    "list_of_null": [None],
    "object": {"a": {"b": 1}},
    "long_list": [0] * 100_000,
}


def json_cases(folder: Path, name: str, limit: int | None = None) -> Iterator[Case]:
    """The cases of the JSON file ``name`` in the folder, or ``limit`` of them."""
    yield from sampled(_json_cases(folder, name), limit, seed=0)


def _json_cases(folder: Path, name: str) -> Iterator[Case]:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    for key in keys(content, generator(name)):
        yield from _cases_of_key(name, content, key)
    for key in [
        (),
        *(key for key in keys(content, generator(name)) if isinstance(value_at(content, key), dict)),
    ]:
        changed = with_value(content, (*key, "unknown_key"), 1)
        yield _json_case(name, (*key, "unknown_key"), "added", changed, DAMAGE)
    for what, text in whole_files(content).items():
        yield Case(f"{name}={what}", partial(_write, name, text))


def _cases_of_key(name: str, content: Any, key: Key) -> Iterator[Case]:
    own = value_at(content, key)
    # A list may be shorter; a key that is missing is damage.
    kind = VALUE if isinstance(key[-1], int) else DAMAGE
    yield _json_case(name, key, "deleted", with_value(content, key, _DELETED), kind)
    yield Case(
        f"{name}:{dotted(key)}=nested",
        partial(
            _write, name, _text(with_value(content, key, PLACEHOLDER)).replace(json.dumps(PLACEHOLDER), DEEP)
        ),
    )
    others = {what: value for what, value in VALUES.items() if not same(value, own)}
    others["in_a_list"] = [own]
    if isinstance(own, int | float) and not isinstance(own, bool):
        others |= {"as_string": str(own), "plus_one": own + 1, "as_float": own + 0.25, "negated": -own or -1}
    if isinstance(own, bool):
        others["as_number"] = int(own)
    if isinstance(own, list) and own:
        others |= {"shorter": own[:-1], "longer": [*own, own[-1]], "reversed": own[::-1]}
    rest = sorted(others.keys() - set(ALWAYS))
    chosen = {*ALWAYS, *generator(name, *key).sample(rest, min(OTHERS, len(rest)))}
    for what, value in others.items():
        if what in chosen and not same(value, own):
            kind = VALUE if own is None or same_type(value, own) else DAMAGE
            yield _json_case(name, key, what, with_value(content, key, value), kind)


def _json_case(name: str, key: Key, what: str, content: Any, kind: str) -> Case:
    return Case(f"{name}:{dotted(key)}={what}", partial(_write_json, name, content), kind)


_DELETED = object()


def keys(content: Any, choice: Any, prefix: Key = ()) -> Iterator[Key]:
    """The keys of all values in nested objects and lists; only some keys of large containers."""
    if isinstance(content, dict):
        inner = list(content)
    elif isinstance(content, list):
        inner = list(range(len(content)))
    else:
        return
    if len(inner) > MANY and prefix:
        inner = [inner[0], *choice.sample(inner[1:-1], SOME - 2), inner[-1]]
    for key in inner:
        yield (*prefix, key)
        yield from keys(content[key], choice, (*prefix, key))


def value_at(content: Any, key: Key) -> Any:
    for part in key:
        content = content[part]
    return content


def with_value(content: Any, key: Key, value: Any) -> Any:
    """The content with the value at the key replaced or removed."""
    if not key:
        return value
    copied, first = content.copy(), key[0]
    if len(key) == 1 and value is _DELETED:
        del copied[first]
    else:
        copied[first] = value if len(key) == 1 else with_value(content[first], key[1:], value)
    return copied


def dotted(key: Key) -> str:
    """A key as written in a case's name: shortened, without line breaks."""
    return ".".join(repr(str(part))[1:-1][:40] for part in key)


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right


def same_type(left: Any, right: Any) -> bool:
    number = (isinstance(value, int | float) and not isinstance(value, bool) for value in (left, right))
    return all(number) or type(left) is type(right)


def _text(content: Any) -> str:
    return json.dumps(content)  # NaN, Infinity and lone surrogates included


def _write_json(name: str, content: Any, folder: Path) -> None:
    rewrite(folder / name, _text(content).encode())


def _write(name: str, content: str | bytes, folder: Path) -> None:
    rewrite(folder / name, content if isinstance(content, bytes) else content.encode())


def whole_files(content: Any) -> dict[str, str | bytes]:
    """File contents that are not JSON, JSON of another type, or the same content in another notation."""
    text = _text(content)
    first = next(iter(content))
    twice = "{" + json.dumps(first) + ": null, " + text[1:]
    return {
        "list": "[]",
        "null": "null",
        "number": "3",
        "string": '"x"',
        "empty_object": "{}",
        "in_a_list": f"[{text}]",
        "nested": DEEP,
        "nested_objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "no_json": "key: value\n",
        "comment": text + "\n// the end",
        "two": text + text,
        "key_twice": twice,
        "utf16": text.encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "not_utf8": text.encode().replace(b'"', b'"\xff', 1),
        "nul": text.encode() + b"\0",
        "long_number": text[:-1] + ', "number": ' + "9" * 100_000 + "}",
        "long_exponent": text[:-1] + ', "number": 1e999999999}',
        "single_quotes": text.replace('"', "'"),
        "spaces": " " * 10**6 + text,
    }


YAML_FILES: dict[str, str | bytes] = {
    "python_object": "!!python/object/apply:os.system ['touch ran_code']\n",
    "python_name": "dataset: !!python/name:os.system\n",
    "python_module": "dataset: {name: !!python/module:antigravity }\n",
    "bomb": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "recursive_anchor": "dataset: &a {name: *a}\n",
    "environment": "ld4lg_fast: 0.1.0\ngroups: {}\ndataset: {name: '${oc.env:HOME}', root: '${oc.env:PATH}'}\n",
    "cycle": "ld4lg_fast: 0.1.0\ngroups: {}\ndataset: {name: '${dataset.root}', root: '${dataset.name}'}\n",
    "unknown_resolver": "ld4lg_fast: 0.1.0\ngroups: {}\ndataset: {name: '${eval:1+1}'}\n",
    "create": "ld4lg_fast: 0.1.0\ngroups: {}\ndataset: '${oc.create:{name: demo}}'\n",
    "decode": "ld4lg_fast: 0.1.0\ngroups: {}\ndataset: {name: '${oc.decode:demo}'}\n",
    "tab": "dataset:\n\tname: demo\n",
    "colon": "dataset: name: demo\n",
    "list": "- a\n- b\n",
    "string": "demo\n",
    "number": "3\n",
    "empty_documents": "---\n---\n",
    "two_documents": "dataset: {name: demo}\n---\ndataset: {name: e2e}\n",
    "nested": DEEP,
    "nested_maps": "{a: " * 100_000 + "1" + "}" * 100_000,
    "utf16": "dataset: {name: demo}\n".encode("utf-16"),
    "not_utf8": b"dataset: {name: \xff}\n",
    "nul": b"dataset: {name: demo}\0\n",
    "missing_value": "ld4lg_fast: 0.1.0\ngroups: {}\ndataset: {name: '???'}\n",
    "key_twice": "dataset: {name: demo}\ndataset: {name: e2e}\n",
    "merge": "base: &b {name: demo}\ndataset: {<<: *b, limit: 1000000000000}\n",
    "integer_keys": "1: 2\ndataset: {3: 4}\n",
}


def yaml_cases(
    folder: Path, name: str, load: Callable[[str], Any], dump: Callable[[Any], str]
) -> Iterator[Case]:
    """All cases of a YAML file; ``load`` and ``dump`` are those of PyYAML."""
    content = load((folder / name).read_text(encoding="utf-8"))
    writable = {what: value for what, value in VALUES.items() if what != "surrogate"}
    for key in keys(content, generator(name)):
        own = value_at(content, key)
        changes = {"deleted": _DELETED} | {what: v for what, v in writable.items() if not same(v, own)}
        for what, value in changes.items():
            text = partial(_dumped, dump, content, key, value)
            yield Case(f"{name}:{dotted(key)}={what}", partial(_write_late, name, text), VALUE)
    for what, text in YAML_FILES.items():
        yield Case(f"{name}={what}", partial(_write, name, text), VALUE)


def _dumped(dump: Callable[[Any], str], content: Any, key: Key, value: Any) -> str:
    return dump(with_value(content, key, value))


def _write_late(name: str, text: Callable[[], str], folder: Path) -> None:
    rewrite(folder / name, text().encode())
