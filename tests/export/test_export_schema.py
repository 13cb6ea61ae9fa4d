"""The schema of an exported folder's ``config.json``, and bounds on JSON itself."""

import copy
import json
from collections.abc import Iterator

import numpy as np
import pytest

from ld4lg_fast.export import exporter
from ld4lg_fast.export.runtime import RuntimeInputError
from ld4lg_fast.export.runtime.folder import read_config
from ld4lg_fast.export.runtime.folder_schema import PROOFS, FolderConfig, digest_of, parse_config
from ld4lg_fast.export.runtime.records import as_json
from tests.export.export_models import MAKERS
from tests.export.exported_folders import changed


@pytest.fixture(scope="module")
def contents(tokenizer) -> dict[str, dict]:
    """``config.json`` of all kinds of models as parsed JSON, with invented files."""
    files = {f"{name}.onnx": 1 for name in ("denoiser", "latents", "decoder", "cache", "source")}
    files |= {"tokenizer.json": 1, "weights.bin": 1}
    found = {}
    for name, maker in MAKERS.items():
        pipe = maker(tokenizer)
        pipe.model.recipe["learned_times"] = np.linspace(1, 0, 65).tolist()
        content = as_json(exporter.folder_config(pipe, "float32"))
        content |= {"files": files, "sha256": dict.fromkeys(files, 64 * "a")}
        found[name] = json.loads(json.dumps(content | {"digest": digest_of(content)}))
    return found


def paths(node: object, path: tuple = ()) -> Iterator[tuple]:
    """Every key, and the first and the last entry of every list."""
    if path:
        yield path
    keys = list(node) if isinstance(node, dict) else []
    if isinstance(node, list) and node:
        keys = [0, len(node) - 1]
    for key in keys:
        yield from paths(node[key], (*path, key))


DEEP: object = 1
for _ in range(20):
    DEEP = [DEEP]
NOTHING_MAY_BE = [
    *({"key": [{}]}, DEEP, 10**400, -(10**30), 10**30, 1e300, -1e300, float("nan"), float("inf")),
    *(-1234567.5, ["", 1, None], "../weights.bin"),
]
FREE_TEXT = {("written_by",), *(("statistics", "class_names", index) for index in range(3))}


@pytest.mark.parametrize("name", list(MAKERS))
def test_what_is_written_can_be_read(contents, name):
    config = parse_config(contents[name])
    assert isinstance(config, FolderConfig) and as_json(config) == contents[name]


@pytest.mark.parametrize("name", list(MAKERS))
def test_values_that_no_key_may_have_are_refused_by_the_name_of_the_key(contents, name):
    for path in paths(contents[name]):
        for value in NOTHING_MAY_BE:
            if path in FREE_TEXT and isinstance(value, str):
                continue
            with pytest.raises(RuntimeInputError) as caught:
                parse_config(changed(contents[name], path, value))
            sentence, named = str(caught.value), str(path[-1] if isinstance(path[-1], str) else path[-2])
            assert named in sentence and "\n" not in sentence and len(sentence) < 600, (path, value, sentence)


@pytest.mark.parametrize("name", list(MAKERS))
def test_every_key_is_needed_and_no_other_is_taken(contents, name):
    optional = {*((key,) for key in PROOFS), ("generation", "max_length")}
    for path in paths(contents[name]):
        node = contents[name]
        for key in path[:-1]:
            node = node[key]
        if isinstance(node, list) or path[0] in ("files", "sha256") and len(path) > 1:
            continue
        without = changed(contents[name], path, None)
        if path not in optional and path != ("qualities", path[-1]):
            holder = without
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
            with pytest.raises(RuntimeInputError, match=path[-1]):
                parse_config(without)
        if not (path[0] == "qualities" and len(path) == 2):
            with pytest.raises(RuntimeInputError, match="surprise"):
                parse_config(changed(contents[name], (*path[:-1], "surprise"), 1))


@pytest.mark.parametrize("name", list(MAKERS))
def test_truth_values_are_no_numbers_and_numbers_no_truth_values(contents, name):
    for path in paths(contents[name]):
        node = contents[name]
        for key in path:
            node = node[key]
        for value in [True, False] if isinstance(node, int | float) else [0, 1, 1.0]:
            if isinstance(node, bool) == isinstance(value, bool) or path == ("generation", "early_stopping"):
                continue
            with pytest.raises(RuntimeInputError, match=str(path[0])):
                parse_config(changed(contents[name], path, value))


@pytest.mark.parametrize(
    ("name", "path", "value", "sentence"),
    [
        (
            "v2_t5",
            "diffusion.num_latents",
            60000,
            "num_latents times diffusion.dim_latent is 480000; it must",
        ),
        ("v2_t5", "diffusion.mean", [0.0] * 7, "mean has 7 entries; it must have diffusion.dim_latent, 8"),
        (
            "v2_t5",
            "diffusion.schedule.name",
            "tan-0",
            "name is 'tan-0'; it must be the name of a noise schedule",
        ),
        ("v2_t5", "diffusion.schedule.alphas_cumprod", [0.9, 0.5], "either scale or alphas_cumprod"),
        ("v1_t5", "diffusion.schedule.name", "cosine-2", "must be the name of a noise schedule"),
        ("v1_t5", "diffusion.schedule.alphas_cumprod", [0.5, 0.5], "alphas_cumprod must fall strictly"),
        (
            "v1_t5",
            "diffusion.schedule.alphas_cumprod",
            [1.0, 0.5],
            "alphas_cumprod must fall strictly, below 1",
        ),
        ("v1_t5", "diffusion.schedule.learned_times", [0.0, 1.0], "learned_times must fall"),
        ("v1_t5", "diffusion.has_mask", False, "has_mask must be true with alphas_cumprod"),
        ("v2_bart", "diffusion.class_modulates", True, "class_modulates is true, but there are no classes"),
        (
            "v1_t5",
            "diffusion.default_class",
            2,
            "default_class is 2; it must be diffusion.num_classes, 3, or null",
        ),
        ("v1_t5", "diffusion.num_classes", 4, "it must be diffusion.num_classes, 4, or null"),
        ("v1_t5", "statistics.class_names", ["a", "b"], "class_names has 2 entries; it must have"),
        ("v1_t5", "statistics.class_names", None, "class_names has 0 entries; it must have"),
        ("v1_t5", "statistics.class_counts", [1], "class_counts has 1 entries; it must have"),
        ("v1_t5", "statistics.class_counts", [0, 0, 0], "class_counts must not be 0 alone"),
        (
            "v1_t5",
            "statistics.length_counts",
            [5, 0, 0],
            "must count texts of 1 to diffusion.num_latents, 16",
        ),
        ("v1_t5", "statistics.length_counts", [1] * 18, "must count texts of 1 to diffusion.num_latents, 16"),
        ("v1_t5", "generation.max_length", 18, "max_length is 18; it must be at most max_len, 16, plus 1"),
        ("v1_t5", "generation.min_length", 17, "max_length is 16; it must be at least min_length, 17"),
        (
            "v1_t5",
            "generation.num_beams",
            65,
            "num_beams is 65; it must be at most 64, more only where a call",
        ),
        ("v1_t5", "generation.num_decodes", 2, "num_decodes 2 needs strategy nucleus"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(contents, name, path, value, sentence):
    content = copy.deepcopy(contents[name])
    if path == "diffusion.num_latents":
        content["diffusion"]["dim_latent"] = 100
        sentence = "num_latents times diffusion.dim_latent is 6000000; it must be at most"
    with pytest.raises(RuntimeInputError) as caught:
        parse_config(changed(content, tuple(path.split(".")), value))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "it is nested more than 32 deep"),
        ('{"format": 2, "a": ' + "[" * 40 + "]" * 40 + "}", "it is nested more than 32 deep"),
        ('{"format": NaN}', "it holds 'NaN', which is no finite number"),
        ('{"format": -Infinity}', "it holds '-Infinity', which is no finite number"),
        ('{"format": 1e999}', "it holds '1e999', which is no finite number"),
        ('{"format": 2, "format": 2}', "it holds the key 'format' twice"),
        ('{"format": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ('{"format": 2', "cannot be read as JSON"),
        ('"' + "\\" * 99_999, "cannot be read as JSON"),
        ("\ud800", "cannot be read as JSON"),
        (" " * 17_000_000, "17000000 bytes, more than the 16777216 that are read"),
        ("7", "is no folder that ld4lg export wrote"),
        ("{}", "is no folder that ld4lg export wrote"),
        ('{"format": 3}', "has the format 3; this runtime reads format 2"),
        ('{"format": 2.0}', "format is 2.0; it must be a whole number"),
        ('{"format": 2}', "written_by is missing"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_files_that_are_no_such_json_are_refused(tmp_path, text, said):
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(RuntimeInputError) as caught:
        read_config(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 400
