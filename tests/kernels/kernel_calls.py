"""A small valid call of every operation, for tests that replace one of its arguments by an invalid one."""

from collections.abc import Callable

import torch
from torch import Tensor

from ld4lg_fast.kernels import ops

# Operations of the C++ library alone, and those that every backend has.
ON_A_CPU = ("cached_attention", "packed_linear", "narrow_linear", "byte_linear")
EVERYWHERE = (
    *(name for name in ops.__all__ if name.islower() and name not in ON_A_CPU),
    "merged_linear",
)
VOCABULARY, TOKENS = 11, 6


def valid_arguments(op: str, seed: int = 0) -> dict[str, object]:
    """Arguments of ``call(op)``, float32 on the CPU."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def below(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    def texts() -> dict[str, object]:
        arguments = {
            "logits": randn(3, VOCABULARY),
            "ids": below(VOCABULARY, 3, TOKENS),
            "length": torch.tensor([4]),
            "eos": torch.tensor([2, 3]),
            "forced": torch.full((TOKENS,), -1),
        }
        return arguments | {"min_length": 5, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}

    def vectors(*names: str) -> dict[str, Tensor]:
        return {name: randn(8) for name in names}

    limits = {"temperature": 0.8, "top_k": 5, "top_p": 0.9}
    uniforms = torch.rand(3, generator=generator, dtype=torch.float64)
    match op:
        case "adaln_residual":
            made = {"h": randn(2, 3, 8), "residual": randn(2, 3, 8), **vectors("weight", "bias")}
            return {
                **made,
                "scale": randn(2, 1, 8),
                "shift": randn(2, 1, 8),
                **vectors("next_weight", "next_bias"),
            }
        case "add_layer_norm":
            return {"branch": randn(2, 3, 8), "residual": randn(2, 3, 8), **vectors("weight", "bias")}
        case "draw":
            return {"scores": randn(3, VOCABULARY), "uniforms": uniforms}
        case "geglu":
            return {"projected": randn(3, 8), **vectors("bias"), "dropout": 0.3, "seed": torch.tensor([5])}
        case "geglu_linear":
            return {"x": randn(3, 5), "weight": randn(8, 5), **vectors("bias")}
        case "linear_cross_entropy":
            targets = torch.tensor([[1, 0, -100], [10, 5, 3]])
            return {
                "x": randn(2, 3, 5),
                "weight": randn(VOCABULARY, 5),
                "targets": targets,
                "bias": randn(VOCABULARY),
            }
        case "logits_best":
            return texts() | {"count": 2}
        case "logits_draw":
            return texts() | limits | {"uniforms": uniforms}
        case "logits_process":
            return texts() | limits
        case "philox_normal":
            return {"seed": 7, "sample_ids": torch.tensor([3, -1]), "stream": 2, "shape": (3, 5)}
        case "quantize_rows":
            return {"x": randn(3, 8), "geglu_bias": randn(8)}
        case "sampler_step":
            made = {"output": randn(4, 3, 5), "z": randn(2, 3, 5), "x_prev": randn(2, 3, 5)}
            numbers = {"step": torch.tensor(2), "seed": torch.tensor(9), "sample_ids": torch.tensor([4, 6])}
            return {
                **made,
                "coefficients": randn(4, 7),
                **numbers,
                "noise_streams": below(2**32, 4, 2),
                "noise_weights": randn(4, 2),
                "first": torch.tensor([1, 0]),
            }
        case "short_attention":
            made = {
                "q": randn(2, 3, 64),
                "k": randn(2, 5, 64),
                "v": randn(2, 5, 64),
                "bias": randn(2, 1, 3, 5),
            }
            return {**made, "q_gain": randn(64), "k_gain": randn(64)}
        case "cached_attention":
            made = {"query": randn(6, 8), "keys": randn(2, 2, 7, 3, 4), "values": randn(2, 2, 7, 3, 4)}
            made |= {"span": 5, "scale": 0.5, "chosen": below(3, 2, 3, 7), "bias": randn(1, 2, 5)}
            return {**made, "key": randn(6, 8), "value": randn(6, 8), "rotary": randn(2, 2), "window": 5}
        case "merged_linear":
            made = {"x": randn(3, 5), "first": randn(4, 5), "second": randn(4, 5), "bias": randn(4)}
            return {**made, "residual": randn(3, 4), "glu": "silu"}
        case "rms_norm":
            return {"x": randn(3, 8), "weight": randn(4), "eps": 1e-5}
        case "packed_linear":
            return {"weight": randn(6, 5), "bias": randn(6), "x": randn(3, 5), "residual": randn(3, 6)}
        case "narrow_linear" | "byte_linear":
            dtype = torch.bfloat16 if op == "narrow_linear" else torch.int8
            made = {"weight": randn(6, 5), "bias": randn(6), "x": randn(3, 5)}
            return {**made, "geglu": True, "dtype": dtype}
    raise KeyError(op)


def call(op: str) -> Callable[..., object]:
    """The operation as a function; a linear layer packs its weight for one call."""

    def packed(weight: Tensor, bias: Tensor | None, x: Tensor, residual: Tensor | None) -> Tensor:
        return ops.PackedLinear(weight, bias)(x, residual)

    def narrow(weight: Tensor, bias: Tensor | None, x: Tensor, geglu: bool, dtype: torch.dtype) -> Tensor:
        return ops.NarrowLinear(weight, bias, dtype, geglu)(x)

    def merged(x: Tensor, first: Tensor, second: Tensor, bias: Tensor, residual: Tensor, glu: str) -> Tensor:
        return ops.MergedLinear([first, second], [bias, None], glu)(x, residual)

    linear = {
        "merged_linear": merged,
        "packed_linear": packed,
        "narrow_linear": narrow,
        "byte_linear": narrow,
    }
    return linear[op] if op in linear else getattr(ops, op)


def spoiled(op: str, name: str, change: object) -> dict[str, object]:
    """Valid arguments with one replaced by ``change``, or by its result if it is a function."""
    arguments = valid_arguments(op)
    return arguments | {name: change(arguments[name]) if callable(change) else change}
