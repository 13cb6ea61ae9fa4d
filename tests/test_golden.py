"""Every golden case, through the reference and through the library; and that the comparison can fail."""

import json
import shutil
from pathlib import Path

import pytest
import replay_golden
import torch
from golden_cases import (
    IMPLEMENTATIONS,
    Case,
    Verdict,
    adapters,
    compare,
    load_cases,
    replay,
    share_of_tolerance,
)
from safetensors.torch import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"
CASES = load_cases(GOLDEN)
FEW = (
    "official/denoiser_class_dense3/ids_0_3_4_self_cond",
    "official/sampling_seq2seq/ddpm_10_guidance_2.0",
    "unofficial/training_loss_class/pred_x0_l1_self_cond_on",
)


def case_of(case_id: str) -> Case:
    return next(case for case in CASES if case.id == case_id)


def copy_of(folder: Path, ids: tuple[str, ...]) -> list[dict]:
    """A folder with these cases alone; their manifest entries, to be changed and written back."""
    entries = [dict(case_of(case_id).entry) for case_id in ids]
    for name in {entry[key] for entry in entries for key in ("file", "weights_file") if entry[key]}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(GOLDEN / name, folder / name)
    write_manifest(folder, entries)
    return entries


def write_manifest(folder: Path, entries: list[dict]) -> None:
    (folder / "manifest.json").write_text(json.dumps({"cases": entries}))


def shift_output(folder: Path, entry: dict, output: str) -> None:
    """Moves one number of a wanted output by twice its tolerance."""
    tensors = load_file(folder / entry["file"])
    tensor, allowed = tensors[entry["outputs"][output]], entry["tolerance"][output]
    number = tensor.view(-1)[:1]
    number += 2 * (allowed["atol"] + allowed["rtol"] * number.abs())
    save_file(tensors, folder / entry["file"])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case, implementation):
    verdict = replay(case, implementation)
    assert verdict.good, f"{verdict.share:.4f} of the tolerance: {verdict.reason}"


def test_every_case_is_here():
    assert len(CASES) == 189
    assert {case.kind for case in CASES} == set(adapters("reference")) == set(adapters("ld4lg_fast"))


@pytest.mark.parametrize("case_id", FEW)
def test_every_output_is_compared(case_id):
    case = case_of(case_id)
    want = case.wanted
    assert compare(case, want) == Verdict(0.0, next(iter(want)))
    for name, tensor in want.items():
        tolerance = case.tolerance(name)
        wrong = tensor.clone()
        if tolerance.get("exact"):
            wrong.view(-1)[-1] = ~wrong.view(-1)[-1]
        else:
            wrong.view(-1)[-1] += 2 * (tolerance["atol"] + tolerance["rtol"] * wrong.view(-1)[-1].abs())
        verdict = compare(case, want | {name: wrong})
        assert not verdict.good and verdict.reason == name
        assert not compare(case, want | {name: wrong[None]}).good
        assert not compare(case, {key: value for key, value in want.items() if key != name}).good


def test_share_of_tolerance():
    want, tolerance = torch.tensor([1.0, -2.0]), {"atol": 0.1, "rtol": 0.2}
    assert share_of_tolerance(want, want, tolerance) == 0
    assert share_of_tolerance(torch.tensor([1.0, -2.25]), want, tolerance) == pytest.approx(0.5)
    assert share_of_tolerance(torch.tensor([1.6, -2.0]), want, tolerance) == pytest.approx(2.0)
    for bad in (float("nan"), float("inf")):
        got = torch.tensor([bad, -2.0])
        assert share_of_tolerance(got, want, tolerance) == float("inf")
        assert share_of_tolerance(got, want, tolerance | {"loose": True}) == float("inf")
    assert share_of_tolerance(torch.tensor([9.0, 9.0]), want, tolerance | {"loose": True}) == 0
    ids = torch.tensor([3, 4])
    assert share_of_tolerance(ids, ids, {"exact": True}) == 0
    assert share_of_tolerance(ids.float(), ids, {"exact": True}) == float("inf")


def test_the_command_passes_good_cases(tmp_path, capsys):
    copy_of(tmp_path, FEW)
    assert replay_golden.main([str(tmp_path)]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(FEW) and all(line.startswith("ok") for line in lines)
    assert summary.startswith("3 cases, 0 failed")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case_id", FEW)
def test_the_command_fails_on_a_wrong_number(tmp_path, capsys, case_id, implementation):
    entry = copy_of(tmp_path, (case_id,))[0]
    outputs = {"official_denoiser": "out", "official_sampling": "z_steps"}
    shift_output(tmp_path, entry, outputs.get(entry["kind"], "grad_norm"))
    assert replay_golden.main([str(tmp_path), "--implementation", implementation]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("BAD") and "1 failed" in lines[1]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "official_poem"}, "unknown kind 'official_poem'"),
        ({"outputs": {}}, "lists no outputs"),
        ({"weights_file": "elsewhere.safetensors"}, "elsewhere.safetensors"),
    ],
)
def test_the_command_fails_on_a_broken_case(tmp_path, capsys, change, word):
    good, broken = copy_of(tmp_path, FEW[:2])
    write_manifest(tmp_path, [broken | change, good])
    assert replay_golden.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[:3] for line in lines[:4]] == ["BAD", "BAD", "ok ", "ok "]
    assert word in lines[0] and word in lines[1]


def test_the_command_wants_a_manifest(tmp_path, capsys):
    assert replay_golden.main([str(tmp_path)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err
    write_manifest(tmp_path, [])
    assert replay_golden.main([str(tmp_path)]) == 1
