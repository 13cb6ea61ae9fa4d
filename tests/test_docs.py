"""Every command and every Python example of README and docs works, and what they name exists."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra
import pyarrow.parquet
import pytest
from omegaconf import OmegaConf
from typer.main import get_command

from ld4lg_fast.cli.main import app
from ld4lg_fast.diffusion import samplers
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import make_model
from tests.doc_commands import DOCUMENTS, ROOT, blocks, commands, run
from tests.language_models import spread, tiny_decoder_only
from tests.published.published_checkpoints import Official

TEXTS = [f"Place {i} is a {kind} pub near the river." for i in range(30) for kind in ("cheap", "small")]
LADDERS = {
    "sample_paper_v2_cpu_avx512.json": (
        "denoise_ms_per_step",
        "speedup_vs_published",
        "share_of_bf16_ceiling",
    ),
    "train_autoencoder_paper_v2_cpu_avx512.json": ("samples_per_s", "speedup_vs_published"),
    "train_diffusion_paper_v2_cpu_avx512.json": ("samples_per_s", "speedup_vs_published"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch, autoencoder, tokenizer):
    """The current folder, with the files and the run that the documents name; what examples register goes again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(samplers, "SAMPLERS", dict(samplers.SAMPLERS))
    rows = [{"text": text, "review": text, "stars": ("one", "five")[i % 2]} for i, text in enumerate(TEXTS)]
    Path("my_texts.txt").write_text("\n".join(f"{text} {number}" for number in range(40) for text in TEXTS))
    lines = ["review,stars", *(f'"{row["review"]}",{row["stars"]}' for row in rows)]
    Path("reviews.csv").write_text("\n".join(lines))
    pairs = [{"text": text, "question": f"What is {text[:8]}?"} for text in TEXTS]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    Path("questions.txt").write_text("What is it?\nWhere is it?\n")
    labelled = [
        {"text": text, "food": ("Italian", "Thai", None)[i % 3], "rating": i % 5}
        for i, text in enumerate(TEXTS)
    ]
    Path("labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    Path("labelled.csv").write_text(
        "text,rating\n" + "".join(f'"{row["text"]}",{row["rating"]}\n' for row in labelled)
    )
    corpus = Path("PATH")
    corpus.mkdir()
    for name in ("trainset", "devset", "testset_w_refs"):
        (corpus / f"{name}.csv").write_text("mr,ref\n" + "".join(f'"name[{t[:8]}]","{t}"\n' for t in TEXTS))
    spread(tiny_decoder_only("smollm2", len(tokenizer))).save_pretrained("SmolLM2-135M")
    tokenizer.save_pretrained("SmolLM2-135M")
    Path("data").mkdir()
    Path("data/e2e").symlink_to(corpus.absolute())
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), "part.parquet")
    statistics = RunStatistics(length_counts=(0,) * 9 + (60,))
    TextDiffusionPipeline(autoencoder, make_model(), statistics).save_pretrained("outputs/foo")
    Path("outputs/foo/config.yaml").write_text(f"dataset: {{name: custom, root: {tmp_path}/my_texts.txt}}\n")
    return tmp_path


@pytest.fixture
def published(folder, tokenizer):
    """A published run named FOLDER and its language model named LANGUAGE_MODEL."""
    official = Official(folder, tokenizer).write()
    official.run.rename(folder / "FOLDER")
    official.lm_folder.rename(folder / "LANGUAGE_MODEL")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_examples_run(document, folder, published, monkeypatch):
    if document.name == "README.md":  # what it uses it has made before
        shutil.rmtree("outputs")
    code = {}
    parts = re.findall(r"```(bash|python)\n(.*?)```", document.read_text(encoding="utf-8"), re.S)
    for language, block in parts:
        if language == "python":
            # Those run in tests/serving, against a server, and in tests/ray, on a cluster.
            if document.name not in ("serving.md", "clusters.md"):
                exec(compile(block, document.name, "exec"), code)
            continue
        for line in block.splitlines():
            with monkeypatch.context() as patched:
                run(line, patched)


def test_the_notebook_runs(folder, capsys):
    notebook = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), code)
    assert len(cells) >= 6 and capsys.readouterr().out.count("•") == 4
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "the notebook is kept without outputs"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_exist(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
    named = re.findall(r"`((?:ld4lg_fast|kernels|export|benchmarks|tests|scripts|docs)/[\w/.*-]*)`", text)
    for name in named:
        assert (ROOT / name).exists(), name


def test_commands_and_options_named_in_sentences_exist():
    spans = [span for path in DOCUMENTS for span in re.findall(r"`([^`\n]+)`", path.read_text("utf-8"))]
    with hydra.initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        groups = ["dataset=custom", "autoencoder=bart", "recipe=v3"]
        configs = [
            hydra.compose("train"),
            hydra.compose("train", groups),
            hydra.compose("train", ["autoencoder=causal"]),
            *map(hydra.compose, ("infer", "test")),
        ]
        keys = {key for config in configs for key in all_keys(OmegaConf.to_container(config))}
        lines = [shlex.split(span)[1:] for span in spans if span.startswith("ld4lg ")]
        for name, *arguments in lines:
            command = get_command(app).commands[name]
            if name in ("train", "evaluate"):
                overrides = [argument for argument in arguments if "=" in argument]
                hydra.compose(
                    "train" if name == "train" else "test", [o for o in overrides if "hydra." not in o]
                )
            elif arguments:
                command.make_context(name, arguments)
    named = {found[1] for span in spans if (found := re.match(r"'?(\w+(?:\.\w+)+)=", span))}
    assert len(lines) > 8 and len(named) > 20
    assert {name for name in named if not name.startswith("hydra.")} <= keys


def all_keys(config: dict, before: str = "") -> Iterator[str]:
    for key, value in config.items():
        yield f"{before}{key}"
        if isinstance(value, dict):
            yield from all_keys(value, f"{before}{key}.")


def test_commands_are_found_where_they_stand():
    assert any(line.startswith("ld4lg train dataset=custom") for path in DOCUMENTS for line in commands(path))
    assert len(blocks(ROOT / "docs" / "adding-a-sampler.md", "python")) == 1


@pytest.mark.parametrize(("file", "columns"), LADDERS.items(), ids=list(LADDERS))
def test_ladders_are_those_of_the_benchmarks(file, columns):
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    table = text.split(f"`benchmarks/results/{file}`")[1].split("\n\n")[1]
    result = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
    rates = {name.rpartition("_")[2]: rate for name, rate in result["ceilings"].items()}
    # A file that is older than this column has the share of the precision's own ceiling.
    for rung in result["rungs"]:
        own = rung.get("share_of_ceiling", 0) * rates.get(rung["precision"], 0)
        rung.setdefault("share_of_bf16_ceiling", own / rates["bf16"])
    measured = {
        rung["name"]: [f"{rung[column]:.3g}" for column in columns]
        for rung in result["rungs"]
        if rung["batch"] == 8
    }
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert {name: cells for name, *cells in rows} == measured


def test_what_scaling_reached_is_that_of_the_benchmark():
    file = ROOT / "benchmarks" / "results" / "scaling_cpu_avx512.json"
    table, result = (
        file.with_suffix(".md").read_text(encoding="utf-8"),
        json.loads(file.read_text(encoding="utf-8")),
    )
    assert table in (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    for row, line in zip(result["targets"], table.splitlines()[2:], strict=True):
        assert line.startswith(f"| {row['what']} | {row['to_reach']} ") and f"| {row['measured']:,} " in line


def speedups(file: str, what: str) -> list[str]:
    """The fp32, bf16 and int8 of ``what``, which says how many latents and which search where texts are decoded."""
    content = json.loads((ROOT / "benchmarks" / "results" / file).read_text())
    if "rungs" in content:
        chosen = {
            rung["name"]: rung["speedup_vs_published"] for rung in content["rungs"] if rung["batch"] == 8
        }
    else:
        case = ("beam" if "beam" in what else "greedy", int(re.search(r"\d+", what)[0]))
        rows = [row for row in content["rows"] if (row["strategy"], row["batch"]) == case]
        chosen = {row["name"]: row["speedup_vs_generate"] for row in rows}
    own = {
        name.split(", ")[-1]: factor for name, factor in chosen.items() if name.startswith(("engine", "ours"))
    }
    return [f"{own[dtype]:.1f} ×" if dtype in own else "" for dtype in ("fp32", "bf16", "int8")]


def test_the_headline_is_that_of_the_whole_job():
    def seconds_of(name: str) -> float:
        return next(row for row in found["systems"] if row["name"] == name)["seconds"]

    found = json.loads(
        (ROOT / "benchmarks" / "results" / "whole_job_e2e_small_cpu_avx512.json").read_text(encoding="utf-8")
    )
    fastest, headline = found["headline"]["fastest_of_equal_quality"], found["headline"]["speedup_vs"]
    named = [seconds_of(name) for name in ("published", "published, remedies", fastest)]
    named += [headline["published"], headline["published, remedies"]]
    said = (ROOT / "README.md").read_text(encoding="utf-8").split("A thousand sentences")[1].split("\n\n")[0]
    numbers = re.findall(r"([\d.]+) (?:seconds|and|times)", said)
    assert [f"{value:.1f}" for value in named[:3]] == numbers[:3]
    assert [f"{value:.0f}" for value in named[3:]] == numbers[3:5]


def test_the_readmes_minutes_of_training_are_those_of_the_benchmark():
    file = ROOT / "benchmarks" / "results" / "time_to_quality_e2e_small_cpu_avx512.json"
    curves = json.loads(file.read_text(encoding="utf-8"))["curves"]
    said = (ROOT / "README.md").read_text(encoding="utf-8").split("Two minutes of training")[1]
    of_v3, of_v2 = re.findall(r"\(?(?:MAUVE )?(0\.\d\d)\)", said)[:2]
    for recipe, minutes, figure in (("v3", 2, of_v3), ("v2", 8, of_v2)):
        (point,) = (each for each in curves[recipe] if each["minutes"] == minutes)
        assert f"{point['quality']['mauve_training']['mean']:.2f}" == figure


def test_the_readmes_speeds_and_those_of_decoding_are_those_of_the_benchmarks():
    def cells(text: str) -> list[list[str]]:
        lines = [line for line in text.splitlines() if "×" in line]
        return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    table = (ROOT / "README.md").read_text(encoding="utf-8").split("file in `benchmarks/results/`")[1]
    rows = cells(table.split("\n\n")[0])
    assert len(rows) >= 6
    for what, _, *factors, file in rows:
        assert factors == speedups(file.strip("`"), what), what
    text = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    rows = cells(text.split("| latents, search |")[1].split("\n\n")[0])
    assert len(rows) == 6
    for what, *factors in rows:
        assert factors == speedups("decode_bart_base_cpu_avx512.json", what), what
