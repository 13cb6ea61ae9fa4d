"""Invalid options of the exported runtime: one clear sentence each (without ONNX graphs)."""

import json

import pytest

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.export import exporter
from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError, command
from ld4lg_fast.export.runtime.decoding import DecodingRules
from ld4lg_fast.export.runtime.folder_schema import parse_config
from ld4lg_fast.export.runtime.records import as_json
from tests.export.export_models import v2_t5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "writes from a source text"),
        ({"source": ["a"]}, "1 sources for 2 samples"),
        ({"source": "a", "class_id": 3}, "class_id 3 is out of range"),
        ({"source": "a", "class_name": "inn"}, "no class 'inn'"),
        ({"source": "a", "class_id": 1, "class_name": "pub"}, "exclude each other"),
        ({"source": "a", "sampler": "euler"}, "Unknown sampler 'euler'"),
        ({"source": "a", "strategy": "beams"}, "Unknown decoding strategy 'beams'"),
        ({"source": "a", "beams": 2}, "no option 'beams'"),
        ({"source": "a", "spacing": "even"}, "Unknown spacing 'even'"),
        ({"source": "a", "spacing": "learned"}, "no learned times"),
        ({"source": "a", "guidance_interval": (0.5, 0.2)}, r"guidance_interval is \(0.5, 0.2\)"),
        ({"source": "a", "num_decodes": 2}, "num_decodes 2 needs strategy nucleus"),
        ({"source": "a", "strategy": "nucleus", "choose_decode": "best"}, "Unknown choose_decode 'best'"),
        ({"source": "a", "max_length": 40}, "max_length 40 exceeds the 16 tokens"),
        ({"source": "a", "top_p": 0.0}, r"top_p is 0.0; it must be a finite number above 0 and at most 1\."),
        ({"source": "a", "num_beams": 257}, "num_beams is 257; it must be a whole number from 1 to 256"),
        (
            {"source": "a", "forced_bos_token": 400},
            "forced_bos_token is 400; this model has the tokens 0 to 399",
        ),
        ({"source": "a", "eos_tokens": (2, -1)}, r"eos_tokens\[1\] is -1; it must be a whole number from 0"),
    ],
)
def test_options_that_cannot_work_are_refused(tokenizer, tmp_path, options, sentence):
    pipe = v2_t5(tokenizer)
    model = object.__new__(OnnxTextDiffusion)  # its sessions are not reached
    model.config, model._vocabulary = exporter.folder_config(pipe, "float32"), len(tokenizer)
    with pytest.raises(RuntimeInputError, match=sentence):
        model(2, **options)


def test_there_are_no_more_beams_than_tokens():
    with pytest.raises(RuntimeInputError, match="num_beams is 65; this model has 64 tokens"):
        DecodingRules(num_beams=65).check_vocabulary(64)


def test_a_folder_decodes_as_its_run_does_where_nobody_says_otherwise(tokenizer):
    pipe = v2_t5(tokenizer)
    pipe.decoding = DecodingConfig(
        "nucleus", 12, no_repeat_ngram_size=None, top_k=7, num_decodes=3, precision="bf16"
    )
    model = object.__new__(OnnxTextDiffusion)
    stored = json.loads(json.dumps(as_json(exporter.folder_config(pipe, "float32"))))
    model.config, model._vocabulary = parse_config(stored), len(tokenizer)
    rules = model.rules(top_k=9)
    assert (rules.strategy, rules.max_length, rules.top_k, rules.num_decodes) == ("nucleus", 12, 9, 3)
    assert (rules.no_repeat_ngram_size, rules.repetition_penalty) == (0, 1.2)
    assert rules.eos_tokens == (tokenizer.eos_token_id,) and rules.length_penalty == 1.0


@pytest.fixture
def called(monkeypatch) -> list:
    """The arguments with which the command calls the model."""
    calls = []

    class Model:
        def __init__(self, *_):
            pass

        def __call__(self, count, on_texts, **options):
            calls.append((count, options))
            if on_texts is not None:
                on_texts(["a text"] * count)
            return ["a text"] * count

    monkeypatch.setattr(command, "OnnxTextDiffusion", Model)
    return calls


def test_the_command_passes_its_options_on(called, tmp_path):
    told = (
        "--num-samples 3 --sampler er_sde --spacing log_snr --guidance-scale 1.5 --guidance-interval 0.2 0.8 "
    )
    told += "--class-name pub --seed 4 --strategy nucleus --top-k 9 --top-p 0.8 --num-decodes 2 --choose-decode rougeL"
    command.main(tmp_path, [*told.split(), "--json", str(tmp_path / "texts.json")])
    ((count, options),) = called
    assert count == 3 and options["guidance_interval"] == (0.2, 0.8) and options["class_name"] == "pub"
    decoding = {"strategy": "nucleus", "top_k": 9, "top_p": 0.8, "num_decodes": 2, "choose_decode": "rougeL"}
    assert decoding.items() <= options.items()
    assert not {"num_beams", "temperature", "max_length"} & options.keys(), "those are the model's own"
    stored = json.loads((tmp_path / "texts.json").read_text())
    assert stored["texts"] == ["a text"] * 3 and stored["settings"]["guidance_interval"] == [0.2, 0.8]


def test_json_on_standard_output_stands_alone(called, tmp_path, capsys):
    command.main(tmp_path, ["--num-samples", "2", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["texts"] == ["a text"] * 2


def test_texts_and_names_are_shown_and_not_obeyed(tmp_path, capsys, monkeypatch):
    evil = "\x1b]0;title\x07\x9b31m\u202egnp.exe\r\n• another"
    monkeypatch.setattr(command, "OnnxTextDiffusion", evil_model(evil))
    command.main(tmp_path, ["--num-samples", "1", "--json", str(tmp_path / "texts.json")])
    shown = capsys.readouterr().out
    assert shown.startswith("• \\x1b]0;title\\x07\\x9b31m\\u202egnp.exe\\r\n  • another\n1 texts in ")
    stored = (tmp_path / "texts.json").read_text(encoding="utf-8")
    assert json.loads(stored)["texts"] == [evil] and stored.replace("\n", "").isprintable()
    command.main(tmp_path, ["--num-samples", "1", "--json", "-"])
    printed = capsys.readouterr().out
    assert json.loads(printed)["texts"] == [evil] and printed.replace("\n", "").isprintable()
    with pytest.raises(SystemExit):
        command.main(tmp_path, ["--class-name", evil])
    refused = capsys.readouterr().err
    assert refused.count("\n") == 1 and refused.rstrip("\n").isprintable()


def evil_model(text: str) -> type:
    """Samples that text, and refuses classes with a sentence that contains it."""

    class Model:
        def __init__(self, *_):
            pass

        def __call__(self, count, on_texts, class_name, **_):
            if class_name is not None:
                raise RuntimeInputError(f"There is no class {class_name}.")
            if on_texts is not None:
                on_texts([text] * count)
            return [text] * count

    return Model


def test_the_command_takes_sources_from_the_line_or_a_file(called, tmp_path, capsys):
    command.main(tmp_path, ["--source", "One."])
    (tmp_path / "sources.txt").write_text("One.\nTwo.\n")
    command.main(tmp_path, ["--source-file", str(tmp_path / "sources.txt")])
    assert [(count, options["source"]) for count, options in called] == [(1, "One."), (2, ["One.", "Two."])]
    (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
    for name, sentence in (("latin.txt", "is not UTF-8"), ("none.txt", "none.txt does not exist")):
        with pytest.raises(SystemExit) as stopped:
            command.main(tmp_path, ["--source-file", str(tmp_path / name)])
        assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_every_source_of_the_line_is_written_from(called, tmp_path):
    for line in (["--source", "a", "--source", "b"], ["--source", "a", "b"], ["--source=a", "--source=b"]):
        command.main(tmp_path, line)
    command.main(tmp_path, ["--source=-x", "--source", "a", "b", "--seed", "1", "--source", "c"])
    assert [options["source"] for _, options in called] == [["a", "b"]] * 3 + [["-x", "a", "b", "c"]]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["--json", ""], "argument --json: it is empty; name a file;"),
        (["--json="], "argument --json: it is empty; name a file;"),
        (["--source-file", ""], "argument --source-file: it is empty; name a file;"),
        (["--source", "-x"], "one that begins with - is joined to it, as in --source=-x)"),
        (["--class-name", "-x"], "one that begins with - is joined to it, as in --class-name=-x)"),
        (["--json", "--seed", "1"], "one that begins with - is joined to it, as in --json=-x)"),
    ],
)
def test_what_an_option_of_the_line_lacks_is_said(line, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(tmp_path, line)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in said and said.count("\n") == 1


def test_the_model_s_own_tokens_are_read_as_transformers_reads_them(tokenizer):
    pipe = v2_t5(tokenizer)
    settings = pipe.autoencoder.lm.generation_config
    settings.update(decoder_start_token_id=None, bos_token_id=0, pad_token_id=None, eos_token_id=[2, 7])
    settings.update(forced_eos_token_id=[2], forced_bos_token_id=None)
    rules = exporter.folder_config(pipe, "float32").generation
    assert (rules.start_token, rules.pad_token, rules.eos_tokens) == (0, 2, (2, 7))
    assert (rules.forced_bos_token, rules.forced_eos_token) == (None, 2)
    settings.forced_eos_token_id = [2, 7]
    with pytest.raises(
        RuntimeInputError, match=r"generation.forced_eos_token is \[2, 7\]; it must be a whole"
    ):
        exporter.folder_config(pipe, "float32")
    settings.update(forced_eos_token_id=None, eos_token_id=None)
    with pytest.raises(RuntimeInputError, match=r"generation.pad_token is None"):
        exporter.folder_config(pipe, "float32")
