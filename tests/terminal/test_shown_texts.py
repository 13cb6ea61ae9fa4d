"""Whatever a text holds, a terminal shows it: every way in which the commands print is given a text that would rather
set the window's title, erase the line, turn the writing direction, or be markup."""

import io
import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.table import Table

from ld4lg_fast.cli import bench, doctor
from ld4lg_fast.cli import infer as inference
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import DataError
from ld4lg_fast.evaluation.report import Row, print_report
from ld4lg_fast.export.runtime.command import main as run_exported
from ld4lg_fast.export.runtime.text_display import displayed, get_logger, list_item, print_json
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.terminal import hydra_entry
from ld4lg_fast.terminal.console import ShownColumn, TextConsole, console
from tests.conftest import make_model

NASTY = "\x1b]0;owned\x07\x1b[2K\x9b31m\u202eabc\u2066\rerror: no\x00[bold]x[/bold][link=y]:smile:"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture
def shown(capsys, monkeypatch):
    """The output, after a check that it has no control characters and that nothing was lost."""
    monkeypatch.setattr(console, "quiet", False)

    def check(at_least: int = 1) -> str:
        printed = "".join(capsys.readouterr())
        assert not OBEYED.search(printed), ascii(printed)
        # A narrow column may break it.
        text = re.sub(r"[\s│┃]+", "", printed)
        wanted = re.sub(r"\s+", "", displayed(NASTY))
        assert text.count(wanted) >= at_least, ascii(printed)
        return printed

    return check


def test_the_console_shows_texts(shown):
    console.print(NASTY, f"class {NASTY}", sep="\n")
    shown(2)


def test_a_line_is_one_line(shown):
    console.print(f"a{NASTY}\nerror: b")
    assert len(shown().splitlines()) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_tables_show_texts(terminal):
    table = Table(title=NASTY, caption=NASTY)
    table.add_column(NASTY)
    table.add_row(NASTY)
    out = io.StringIO()
    TextConsole(file=out, width=300, force_terminal=terminal).print(table)
    # Of a terminal's own sequences rich uses those that set a style.
    printed = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert not OBEYED.search(printed) and printed.count(displayed(NASTY)) == 4


def test_bars_show_texts():
    text = ShownColumn("{task.description}").render(SimpleNamespace(description=NASTY))
    assert text.plain == displayed(NASTY) and not text.spans


def test_samples_are_shown(shown):
    inference.print_texts([NASTY, f"a\n{NASTY}"], 1.0, [f"[{NASTY}] ", "source → "])
    assert len(shown(3).splitlines()) == 4


def test_figures_are_shown(shown):
    result = {
        "metrics": {},
        "skipped": {"mauve": f"the model {NASTY} is missing"},
        "num_texts": 2,
        "empty_texts": 1,
    }
    print_report([Row(NASTY, {}, [result])], f"title {NASTY}")
    shown(4)


def test_errors_are_shown(shown):
    with pytest.raises(SystemExit) as stopped:
        hydra_entry.fail(f"There is no class {NASTY}\nerror: other.")
    assert stopped.value.code == 2 and len(shown().splitlines()) == 1


def test_errors_of_a_command_with_options_are_shown(shown, monkeypatch):
    def task(config):
        raise DataError(f"The file {NASTY} is missing.")

    monkeypatch.setattr(sys, "argv", ["infer.py"])
    with pytest.raises(SystemExit):
        hydra_entry.hydra_entry(task, "infer")
    shown()


def test_logged_names_are_shown(caplog):
    logger = get_logger("ld4lg_fast.somewhere")
    with caplog.at_level(logging.WARNING):
        logger.warning("%s is damaged", NASTY)
        logger.warning(NASTY)
    assert [OBEYED.search(record.getMessage()) for record in caplog.records] == [None, None]
    assert caplog.records[0].getMessage() == f"{displayed(NASTY)} is damaged"


def test_what_is_found_on_the_machine_is_shown(shown, monkeypatch):
    monkeypatch.setattr(bench, "find_suites", lambda: {"ops": Path("ops.py")})
    monkeypatch.setattr(bench, "describe", lambda path: NASTY)
    assert bench.run_suite(None, []) == 0
    shown()
    from typer.testing import CliRunner

    from ld4lg_fast.cli.main import app

    monkeypatch.setattr(doctor, "report", lambda: [NASTY])
    printed = CliRunner().invoke(app, ["doctor"]).output
    assert not OBEYED.search(printed) and displayed(NASTY) in printed


def test_json_stays_what_it_is(capsys):
    print_json({"texts": [NASTY], NASTY: 1})
    printed = capsys.readouterr().out
    assert not OBEYED.search(printed) and json.loads(printed) == {"texts": [NASTY], NASTY: 1}


def test_errors_of_an_exported_folder_are_shown(shown):
    name = NASTY.replace("\x00", "")
    with pytest.raises(SystemExit):
        run_exported(Path(name), ["--num-samples", "1"])
    with pytest.raises(SystemExit):
        run_exported(Path("nowhere"), ["--quality", NASTY])
    printed = shown(0)
    assert displayed(name).split("error")[0] in printed


def test_classes_of_a_run_are_shown(autoencoder, tmp_path, monkeypatch, shown):
    statistics = RunStatistics(class_names=(NASTY, f"{NASTY} too"), class_counts=(3, 4))
    pipe = TextDiffusionPipeline(
        autoencoder, make_model(num_classes=2), statistics, DecodingConfig("greedy", 8, min_length=0)
    )
    pipe.save_pretrained(tmp_path / "run")
    options = ["generation.num_samples=4", "generation.num_inference_steps=2", "generation.class_id=1"]
    monkeypatch.setattr(sys, "argv", ["infer.py", f"infer.output_dir={tmp_path / 'run'}", *options])
    inference.main()
    shown(4)
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "generation.class_name=third"])
    with pytest.raises(SystemExit):
        inference.main()
    shown(2)


def test_list_items_keep_their_lines_apart():
    assert list_item("a\n• b\x1b") == "• a\n  • b\\x1b"
