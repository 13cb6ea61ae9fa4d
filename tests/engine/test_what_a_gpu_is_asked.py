"""What is captured as CUDA graphs asks nothing of the host and of no other device, shown without a GPU.

The tensors are on torch's device without memory: what would wait for a value, or mix two devices, is refused there.
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from ld4lg_fast.decoding import DecodingConfig, search
from ld4lg_fast.decoding.causal import read_causal_decoder
from ld4lg_fast.decoding.causal_stack import CausalStack
from ld4lg_fast.decoding.families import read_decoder
from ld4lg_fast.decoding.generate import _options, _uniforms
from ld4lg_fast.decoding.rules import Rules
from ld4lg_fast.decoding.stack import DecoderStack
from ld4lg_fast.engine import cuda_graphs
from ld4lg_fast.engine.merged_linear import share
from ld4lg_fast.engine.precision import PlainLinear
from ld4lg_fast.engine.running_batch import RunningBatch
from ld4lg_fast.engine.sampling_run import SamplingRun
from ld4lg_fast.engine.step_table import Plan
from ld4lg_fast.kernels import backend
from tests.conftest import make_model
from tests.decoding.causal_models import make_causal_lm, make_soft_prefix
from tests.decoding.decoding_models import MAX_LEN, make_lm, make_states

META = torch.device("meta")


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """(object) -> a copy of it with all its tensors there; from then on the backend is Triton, of which only the
    shapes are computed."""

    def moved(self, memo):
        new = self.detach().to(META)
        new = nn.Parameter(new, self.requires_grad) if isinstance(self, nn.Parameter) else new
        return memo.setdefault(id(self), new)

    def move(thing):
        with monkeypatch.context() as patch:
            for kind in (torch.Tensor, nn.Parameter):
                patch.setattr(kind, "__deepcopy__", moved)
            there = copy.deepcopy(thing)
        monkeypatch.setattr(backend, "choose", lambda *_: "triton")
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
        monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.is_meta))
        return there

    return move


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_sampling(sampler, num_classes, as_on_a_gpu, monkeypatch):
    captures = []
    monkeypatch.setattr(cuda_graphs.Capture, "__call__", lambda _, run: captures.append(run) or run)
    classes = torch.arange(3) if num_classes else None
    guided = {"guidance_scale": 2.0, "guidance_interval": (0.3, 0.8)} if num_classes else {}
    model = make_model(num_classes=num_classes)
    run = SamplingRun(model, Plan(sampler, 6, **guided), seed=1, classes=classes, project=True)
    run, ids, classes = as_on_a_gpu((run, torch.arange(3), classes))
    run.device, run.cuda_graph = META, True
    assert run(ids, class_id=classes).shape == (3, 6, 8)
    assert len(captures) == (2 if num_classes else 1)


@pytest.mark.parametrize("denoiser", [{}, {"num_classes": 3}, {"dim_context": 16}], ids=str)
def test_samples_that_enter_and_leave(denoiser, as_on_a_gpu, monkeypatch):
    captures = []
    monkeypatch.setattr(cuda_graphs.Capture, "__call__", lambda _, run: captures.append(run) or run)
    model = make_model(**denoiser)
    plan, class_id = (
        Plan("unipc", 6, guidance_scale=2.0 if denoiser else 1.0),
        1 if "num_classes" in denoiser else None,
    )
    batch = RunningBatch(
        model, model.denoiser, guided=bool(denoiser), capacity=4, project=True, cuda_graph=True
    )
    assert batch.make_room(plan, class_id)
    context = torch.randn(3, 5, 16) if "dim_context" in denoiser else None
    batch, ids, context = as_on_a_gpu((batch, torch.arange(3), context))
    batch.device = META
    for keys in ([0, 1, 2], [3]):
        given = {"sample_ids": ids[: len(keys)], "context": None if context is None else context[: len(keys)]}
        batch.enter(keys, plan, seed=1, class_id=class_id, **given)
        batch.advance()
        assert batch.latents(keys).shape == (len(keys), 6, 8)
    batch.leave({1})
    batch.advance()
    assert len(captures) == 3 and batch.keys == [0, 2, 3]


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_decoding(family, strategy, as_on_a_gpu):
    lm, (states, mask), config = make_lm(family, 0), make_states(7, sentences=6), DecodingConfig(strategy)
    options = _options(lm, config, MAX_LEN)
    rules = Rules.read(options, lm.config.vocab_size, states.device)
    uniforms = _uniforms(states, options.max_length, 1, None, 0)
    lm, rules, uniforms, states, mask = as_on_a_gpu((lm, rules, uniforms, states, mask))
    stack = DecoderStack(read_decoder(lm, torch.float32, PlainLinear), torch.float32)
    decode_as_on_a_gpu(stack, states, mask, rules, uniforms, strategy)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_decoding_of_decoder_only_models(family, strategy, as_on_a_gpu):
    lm, states, config = make_causal_lm(family, 0), make_soft_prefix(7, sentences=6), DecodingConfig(strategy)
    options = _options(lm, config, MAX_LEN)
    rules = Rules.read(options, lm.config.vocab_size, states.device)
    uniforms = _uniforms(states, options.max_length, 1, None, 0)
    lm, rules, uniforms, states = as_on_a_gpu((lm, rules, uniforms, states))
    merge = partial(share, dtype=torch.float32)
    stack = CausalStack(read_causal_decoder(lm, torch.float32, merge), torch.float32)
    decode_as_on_a_gpu(stack, states, None, rules, uniforms, strategy)


def decode_as_on_a_gpu(stack, states, mask, rules, uniforms, strategy):
    with torch.no_grad():
        cache = stack.start(states, mask, rules.num_beams, rules.max_length)
        if strategy == "beam":
            searching = search.BeamSearch(stack, cache, rules, 6)
        elif strategy == "greedy":
            searching = search.GreedySearch(stack, cache, rules, 6)
        else:
            limits = {"temperature": 0.9, "top_k": 5, "top_p": 0.8}
            searching = search.NucleusSearch(stack, cache, rules, uniforms, **limits)
        searching.advance(MAX_LEN)
        searching.advance(MAX_LEN)
    assert searching.result().shape == (6, rules.max_length)


@pytest.mark.parametrize("coin", [False, True])
def test_a_training_step(coin, as_on_a_gpu):
    model, latents = make_model(num_classes=3).train(), torch.randn(4, 6, 8)
    draws = replace(model.draw(latents, torch.Generator().manual_seed(0)), self_condition=coin)
    model, latents, draws, classes = as_on_a_gpu((model, latents, draws, torch.arange(4) % 3))
    model(latents, draws, class_id=classes).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 40
    nn.utils.clip_grad_norm_(gradients, 1.0)


def test_mixed_devices_and_values_are_noticed(as_on_a_gpu):
    there = as_on_a_gpu(torch.ones(3))
    with pytest.raises(RuntimeError, match="device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="item.* cannot be called on meta tensors"):
        there.sum().item()
