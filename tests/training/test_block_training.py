"""Recipe ``blocks``: both stages trained on documents, resumed, distilled; its run continued, evaluated, refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.cli import infer
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.evaluation import command as evaluation
from ld4lg_fast.training import distillation, main
from ld4lg_fast.training.block_stages import BlockAutoencoderStage
from ld4lg_fast.training.decoder_stage import BlockDecoderStage
from tests.training.small_runs import STEPS, command, losses, refused

BLOCKS = [
    "recipe=blocks",
    "dataset.documents=true",
    "dataset.max_len=24",
    "recipe.prefix_tokens=4",
    "recipe.context_blocks=2",
    "recipe.context_layers=1",
]
TUNED = ["train.decoder.batch_size=16", "train.decoder.learning_rate=1e-3", "train.mixed_precision=bf16"]
FEW = ["generation.num_inference_steps=2", "generation.max_new_tokens=30"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("documents") / "run"
    command(path, *BLOCKS)
    return path


def test_both_stages_learn_and_validate(run_dir):
    for stage in ("autoencoder", "diffusion"):
        found = losses(run_dir, stage)
        assert sorted(found) == list(range(1, STEPS + 1)) and found[STEPS] < found[1]
    assert losses(run_dir, "diffusion", "validation_loss")
    model = LatentDiffusion.load(run_dir / "denoiser")
    assert model.writes_documents and not model.is_seq2seq
    assert model.recipe["context_blocks"] == 2
    told = json.loads((run_dir / "samples" / f"validation_step_{STEPS}.json").read_text())
    assert len(told["texts"]) == 2


def test_tokens_before_a_block_are_read_and_have_no_loss(tmp_path, monkeypatch):
    batches, batch = [], BlockAutoencoderStage.batch

    def recorded(*arguments):
        batches.append(batch(*arguments))
        return batches[-1]

    monkeypatch.setattr(BlockAutoencoderStage, "batch", recorded)
    command(tmp_path / "run", *BLOCKS, "train.stage=autoencoder")
    after_prefix = 0
    for _, (ids, mask, *_, labels, targets) in batches:
        for text, real, read, scored in zip(ids, mask, labels, targets, strict=True):
            text, read, scored = text[real.bool()], read[read >= 0], scored[scored >= 0]
            assert torch.equal(read[-len(scored) :], scored) and torch.equal(text[-len(scored) :], scored)
            assert len(text) - len(scored) <= 1, "all of the text but the token that it begins with"
            after_prefix += len(read) > len(text)
    assert after_prefix


def test_the_decoder_is_finetuned_on_blocks_after_a_round_trip(run_dir, tmp_path, monkeypatch):
    batches, asked = [], []
    batch, sample = BlockDecoderStage.batch, TextDiffusionPipeline.sample

    def recorded(self, step, part):
        batches.append((self, self.kept[self.batches[step]], batch(self, step, part)))
        return batches[-1][-1]

    def noted(self, count, **options):
        asked.append((count, options))
        return sample(self, count, **options)

    monkeypatch.setattr(BlockDecoderStage, "batch", recorded)
    monkeypatch.setattr(TextDiffusionPipeline, "sample", noted)
    adapted = tmp_path / "adapted"
    command(adapted, *BLOCKS, f"train.finetune_decoder_from={run_dir}", "train.decoder.steps=3", *TUNED)
    assert losses(adapted, "decoder").keys() == {1, 2, 3} and losses(adapted, "decoder", "validation_loss")

    trips = iter(asked)
    for stage, blocks, (_, (ids, mask, *_)) in batches:
        count, options = next(trips)
        context = options["blocks"]
        assert options["strength"] < 1 and len(options["start"]) == count == len(blocks)
        found = zip(blocks, context.index, context.num_blocks, context.continues, ids, mask, strict=True)
        for block, index, real, continues, row, kept in found:
            cut = bool(np.isin(block, stage.latents.cut.blocks))
            place = int(np.searchsorted(stage.latents.cut.blocks, block))
            want = stage.cut[2][place] if cut else stage.blocks.tokens[block]
            assert row[kept.bool()].tolist() == list(want) and bool(continues) == cut
            before = [*range(stage.firsts[block], block)][-2 + cut :] if real > cut else []
            heads = [stage.latents.cut.heads.take(np.array([place]))] if cut else []
            known = [stage.latents.latents.take(np.array(before)), *heads] if before else heads
            if known:
                torch.testing.assert_close(context.latents[index[-int(real) :]], torch.cat(known))
            assert int(real) == len(before) + cut

    shards = [folder / "cache" / "latents" for folder in (run_dir, adapted)]
    encoded = sorted(path.relative_to(shards[0]) for path in shards[0].rglob("*") if path.is_file())
    assert encoded and all((shards[0] / name).samefile(shards[1] / name) for name in encoded), (
        "not encoded anew"
    )

    weights = [load_file(folder / "denoiser" / "model.safetensors") for folder in (run_dir, adapted)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    given, tuned = (TextDiffusionPipeline.from_pretrained(folder) for folder in (run_dir, adapted))
    assert torch.equal(given.encode("A pub.")[0], tuned.encode("A pub.")[0]), (
        "the denoiser knows these latents"
    )
    layers = (pipe.autoencoder.perceiver.decoder.parameters() for pipe in (given, tuned))
    assert any(not torch.equal(*pair) for pair in zip(*layers, strict=True))
    assert tuned(prompt="Once upon", seed=1, num_inference_steps=2, max_new_tokens=9).texts


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_a_resumed_stage_learns_the_same(run_dir, tmp_path, stage):
    lost = ["denoiser", f"checkpoints/diffusion/step_{STEPS}"]
    if stage == "autoencoder":
        lost = ["denoiser", "autoencoder", "checkpoints/diffusion", f"checkpoints/autoencoder/step_{STEPS}"]
    resumed = tmp_path / "run"
    shutil.copytree(run_dir, resumed)
    for name in lost:
        shutil.rmtree(resumed / name)
    main(["resume=true", f"hydra.run.dir={resumed}"])
    for name in ("autoencoder", "diffusion"):
        assert losses(resumed, name) == losses(run_dir, name)
    weights = "denoiser/model.safetensors"
    assert (resumed / weights).read_bytes() == (run_dir / weights).read_bytes()


def test_a_student_is_distilled_on_blocks(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "COLLAPSE_SHARE", 0.0)  # six steps teach few words
    options = ["train.distill_steps=2", "train.distill_teacher_steps=4"]
    command(tmp_path / "student", f"train.distill_from={run_dir}", *options)
    teacher, student = (LatentDiffusion.load(path / "denoiser") for path in (run_dir, tmp_path / "student"))
    assert student.recipe == teacher.recipe | {"distilled_steps": 2}
    weights = [model.context_encoder.input_proj.weight for model in (teacher, student)]
    assert not torch.equal(*weights), "the context encoder learns, too"
    pipe = TextDiffusionPipeline.from_pretrained(tmp_path / "student")
    assert pipe(prompt="A pub.", max_new_tokens=5, num_inference_steps=2, sampler="ddim").texts


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["recipe=blocks"], "recipe=blocks needs dataset.documents=true"),
        (["dataset.documents=true"], "dataset.documents=true needs recipe=blocks"),
        ([*BLOCKS, "dataset.max_len=6"], "dataset.max_len=6 leaves no room in a block"),
        ([*BLOCKS, "dataset.documents=maybe"], "dataset.documents is 'maybe'"),
        ([*BLOCKS, "recipe.context_blocks=0"], "recipe.context_blocks"),
    ],
)
def test_what_does_not_go_together_is_refused(overrides, said, tmp_path, capsys):
    assert said in refused(capsys, command, tmp_path / "run", *overrides)
    assert not (tmp_path / "run").exists()


def test_sources_of_another_kind_are_refused(run_dir, tmp_path, capsys):
    for option in ("distill_from", "finetune_decoder_from"):
        asked = [f"train.{option}={run_dir}", "recipe=v3", "dataset.documents=false"]
        assert "has recipe=blocks and cannot go on with recipe=v3" in refused(
            capsys, command, tmp_path / option, *asked
        )


def inferred(run_dir, path, monkeypatch, *options):
    arguments = [f"infer.output_dir={run_dir}", f"infer.output_file={path}", *FEW, *options]
    monkeypatch.setattr(sys, "argv", ["infer.py", *arguments])
    infer.main()
    return json.loads(path.read_text())


def test_infer_goes_on_with_prompts(run_dir, tmp_path, monkeypatch, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The Old Mill is a pub.\nJuniper is a cafe.\n")
    of_file = inferred(run_dir, tmp_path / "1.json", monkeypatch, f"infer.prompt_file={prompts}")
    assert of_file["prompts"] == prompts.read_text().splitlines() and len(of_file["texts"]) == 2
    one = inferred(
        run_dir, tmp_path / "2.json", monkeypatch, "infer.prompt='The Old Mill is a pub.'",
        "generation.num_samples=3"
    )  # fmt: skip
    assert one["prompts"] == ["The Old Mill is a pub."] * 3 and one["texts"][0] == of_file["texts"][0]
    begun = inferred(run_dir, tmp_path / "3.json", monkeypatch, "generation.num_samples=2")
    assert "prompts" not in begun and len(begun["texts"]) == 2

    def both():
        inferred(run_dir, tmp_path / "4.json", monkeypatch, "infer.prompt=a", f"infer.prompt_file={prompts}")

    assert "infer.prompt and infer.prompt_file" in refused(capsys, both)


def test_continuations_are_evaluated(run_dir, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    arguments = [f"infer.output_dir={run_dir}", f"infer.output_file={out}", *FEW, "generation.num_samples=5"]
    arguments += [
        f"evaluation.{name}_model=null" for name in ("mauve", "perplexity", "bertscore", "sentence")
    ]
    monkeypatch.setattr(sys, "argv", ["test.py", *arguments])
    evaluation.main()
    content = json.loads(out.read_text())
    own, real = content["rows"]
    assert {"rougeL", "repeated_4grams"} <= own["metrics"].keys()
    assert real["metrics"]["rougeL"]["mean"] == pytest.approx(1.0)
    references = content["references"]
    assert len(references["sources"]) == len(references["texts"]) == 5
    assert all(rest.startswith((" ", "\n")) for rest in references["texts"])
