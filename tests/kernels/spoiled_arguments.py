"""Invalid arguments for the calls of tests/kernels/kernel_calls.py, with the messages they raise."""

from collections.abc import Callable

import torch
from torch import Tensor, tensor, zeros

LOGITS = ("logits_process", "logits_best", "logits_draw")
LIMITED = ("logits_process", "logits_draw")
NARROW = ("narrow_linear", "byte_linear")
NAN, INF = float("nan"), float("inf")
IDS = (1, 3)  # before length, which is 4


def at(place: tuple[int, ...], value: int) -> Callable[[Tensor], Tensor]:
    """A change of one element."""

    def change(values: Tensor) -> Tensor:
        values = values.clone()
        values[place] = value
        return values

    return change


def ints(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return zeros(shape, dtype=dtype)


def all_of(value: int, length: int = 6) -> Tensor:
    return torch.full((length,), value)


def doubles(*values: float) -> Tensor:
    return tensor(values, dtype=torch.float64)


# (operations, argument): the new value, or a function that makes it, and a part of the message.
OUT_OF_RANGE = {
    (LOGITS, "ids"): [
        (at(IDS, 11), "ids holds 11; it needs 0 to 10"),
        (at(IDS, -1), "ids holds -1; it needs 0 to 10"),
        (at(IDS, 2**62), "ids holds 4611686018427387904; it needs"),
    ],
    (LOGITS, "length"): [
        (tensor([6]), "length holds 6; it needs 0 to 5"),
        (tensor([-1]), "length holds -1; it needs 0 to 5"),
        (tensor([-(2**63)]), "length holds -9223372036854775808"),
    ],
    (LOGITS, "eos"): [
        (tensor([3, 10**9]), "eos holds 1000000000; it needs 0 to 10"),
        (tensor([-1]), "eos holds -1; it needs 0 to 10"),
    ],
    (LOGITS, "forced"): [
        (all_of(5000), "forced holds 5000; it needs -1 to 10"),
        (all_of(-2), "forced holds -2; it needs -1 to 10"),
    ],
    (("linear_cross_entropy",), "targets"): [
        (at((1, 0), 11), "targets holds 11; it needs 0 to 10 or ignore_index"),
        (at((1, 0), 10**6), "targets holds 1000000; it needs 0 to 10"),
        (at((0, 1), -1), "targets holds -1; it needs 0 to 10"),
    ],
    (("sampler_step",), "step"): [
        (tensor(4), "step holds 4; it needs 0 to 3"),
        (tensor(-1), "step holds -1; it needs 0 to 3"),
        (tensor(2**60), "step holds 1152921504606846976"),
        (tensor([1, 4]), "step holds 4; it needs 0 to 3"),
    ],
    (("sampler_step",), "first"): [
        (tensor([0, -1]), "first holds -1; it needs 0 to 3"),
        (tensor([2, 0]), r"first \+ step holds 4; it needs 0 to 3"),
        (tensor([0, 2**63 - 1]), "first holds 9223372036854775807"),
    ],
    (("cached_attention",), "chosen"): [
        (at((1, 2, 4), 3), "chosen holds 3; it needs 0 to 2"),
        (at((0, 0, 0), -1), "chosen holds -1; it needs 0 to 2"),
        (at((0, 0, 0), 2**60), "chosen holds 1152921504606846976"),
    ],
}
UNFIT = {
    (LIMITED, "temperature"): [
        (0.0, "temperature is 0.0, top_k 5 and top_p 0.9; they need to be above 0 and finite"),
        (NAN, "temperature is nan"),
        (INF, "temperature is inf"),
        (1e-60, "temperature is 1e-60"),
        (1e60, r"temperature is 1e\+60"),
    ],
    (LIMITED, "top_k"): [
        (-1, "top_k -1"),
        (2**63, "top_k is 9223372036854775808; it needs a whole number from 0 to 9223372036854775807"),
        (2.5, "top_k is 2.5; it needs a whole number"),
    ],
    (LIMITED, "top_p"): [(0.0, "top_p 0.0; they"), (1e-60, "top_p 1e-60; they"), (NAN, "top_p nan; they")],
    (LOGITS, "min_length"): [
        (2**70, "min_length is 1180591620717411303424; it needs a whole number from 0 to"),
        (-1, "min_length is -1; it needs"),
    ],
    (LOGITS, "repetition_penalty"): [
        (0.0, "repetition_penalty is 0.0 and no_repeat_ngram_size 2; they need"),
        (NAN, "repetition_penalty is nan"),
        (1e60, r"repetition_penalty is 1e\+60"),
    ],
    (LOGITS, "no_repeat_ngram_size"): [
        (-1, "no_repeat_ngram_size -1; they need"),
        (2**63, "no_repeat_ngram_size is 9223372036854775808; it needs"),
    ],
    (LOGITS, "ids"): [
        (ints(2, 6), r"logits \(3, 11\) and ids \(2, 6\) need"),
        (ints(3, 0), "need rows of at least one element"),
        (ints(3, 6, dtype=torch.int32), "ids torch.int32, .* must be int64"),
    ],
    (LOGITS, "length"): [
        (tensor(4), r"length \(\), .* need the shapes"),
        (tensor([4], dtype=torch.int32), "length torch.int32"),
    ],
    (LOGITS, "eos"): [
        (ints(1, dtype=torch.int16), "eos torch.int16"),
        (ints(1, 1), r"eos \(1, 1\) and"),
    ],
    (LOGITS, "forced"): [
        (all_of(-1, 5), r"forced \(5,\) need the shapes"),
        (all_of(-1.0), "forced torch.float32 must be int64"),
    ],
    (LOGITS, "logits"): [
        (zeros(3, 0), "need rows of at least one element"),
        (zeros(11), r"logits \(11,\) and ids"),
    ],
    (("logits_best",), "count"): [
        (0, "count is 0; it needs to be 1 to the vocabulary's 11"),
        (12, "count is 12; it needs to be 1 to the vocabulary's 11"),
        (1.5, "count is 1.5; it needs a whole number"),
    ],
    (("logits_draw", "draw"), "uniforms"): [
        (zeros(3), r"uniforms \(3,\) torch.float32 need the shape \(3,\) and float64"),
        (doubles(0.5), r"uniforms \(1,\) torch.float64 need the shape \(3,\)"),
        (doubles(0.5, 1.0, 0.5), "uniforms holds 1.0; it needs numbers above 0 and below 1"),
        (doubles(0.5, -2.0, 0.5), "uniforms holds -2.0"),
        (doubles(0.5, 0.5, NAN), "uniforms holds nan"),
    ],
    (("draw",), "scores"): [
        (zeros(3, 0), r"scores has shape \(3, 0\)"),
        (zeros(3), r"scores has shape \(3,\)"),
    ],
    (("linear_cross_entropy",), "targets"): [
        (zeros(2, 3), "targets is torch.float32; it needs int64"),
        (ints(2, 3, dtype=torch.int32), "targets is torch.int32; it needs int64"),
        (ints(6), r"targets \(6,\) do not fit"),
    ],
    (("linear_cross_entropy",), "weight"): [
        (zeros(0, 5), r"weight \(0, 5\) and"),
        (zeros(11, 5).double(), "weight torch.float64, bias torch.float32; a matmul needs one dtype"),
    ],
    (("linear_cross_entropy",), "x"): [(zeros(5), r"x \(5,\)"), (zeros(2, 3, 4), r"x \(2, 3, 4\), weight")],
    (("linear_cross_entropy",), "bias"): [(zeros(10), r"bias has shape \(10,\); it needs \(11,\)")],
    (("linear_cross_entropy",), "ignore_index"): [(2**63, "ignore_index is 9223372036854775808; it needs")],
    (("sampler_step",), "step"): [
        (tensor([2]), r"step is torch.int64 of shape \(1,\); it needs int64"),
        (tensor(2, dtype=torch.int32), "step is torch.int32"),
    ],
    (("sampler_step",), "first"): [
        (tensor(0), r"first is torch.int64 of shape \(\); it needs int64 of \(2,\)")
    ],
    (("sampler_step",), "seed"): [
        (tensor(2.0), "seed is torch.float32"),
        (tensor([1, 2, 3]), r"seed is torch.int64 of shape \(3,\); it needs int64 of \(\) or \(2,\)"),
        (None, "seed, sample_ids, noise_streams and noise_weights come together"),
    ],
    (("sampler_step",), "sample_ids"): [(tensor([4]), r"sample_ids is .* shape \(1,\); it needs")],
    (("sampler_step",), "coefficients"): [
        (zeros(0, 7), r"coefficients has shape \(0, 7\)"),
        (zeros(4, 6), r"coefficients has shape \(4, 6\)"),
    ],
    (("sampler_step",), "output"): [(zeros(3, 3, 5), r"output \(3, 3, 5\) does not fit z")],
    (("sampler_step",), "x_prev"): [(zeros(2, 3), r"x_prev has shape \(2, 3\)")],
    (("sampler_step",), "noise_streams"): [
        (zeros(4, 2), r"noise_streams is torch.float32 of shape \(4, 2\); it needs int64"),
        (ints(4, 3), r"noise_streams is torch.int64 of shape \(4, 3\); it needs int64 of \(4, 2\)"),
    ],
    (("sampler_step",), "noise_weights"): [
        (zeros(3, 2), r"noise_weights has shape \(3, 2\); it needs \(4, K\), as coefficients"),
        (zeros(4), r"noise_weights has shape \(4,\)"),
        (None, "come together; give all or none"),
    ],
    (("philox_normal",), "seed"): [
        (2**64, "seed is 18446744073709551616; it needs a whole number from 0"),
        (1.0, "seed is 1.0; it needs a whole number"),
    ],
    (("philox_normal",), "stream"): [(2**32, "stream is 4294967296; it needs a whole number from 0")],
    (("philox_normal",), "sample_ids"): [(ints(2, dtype=torch.int32), "sample_ids is torch.int32")],
    (("philox_normal",), "shape"): [
        ((-1,), r"shape is \(-1,\); it needs lengths of 0 or more"),
        ((2**18, 2**17), r"at most 2\*\*34 elements"),
        ((-(2**18), -(2**17)), "it needs lengths of 0 or more"),
    ],
    (("geglu",), "dropout"): [
        (1.0, "dropout is 1.0; it needs 0 <= dropout < 1"),
        (NAN, "dropout is nan"),
    ],
    (("geglu",), "seed"): [
        (ints(2), "dropout needs a seed"),
        (ints(1, dtype=torch.int32), "dropout needs a seed"),
        (None, "dropout needs a seed"),
    ],
    (("geglu",), "bias"): [(zeros(7), r"bias has shape \(7,\); it needs \(8,\)")],
    (("geglu",), "projected"): [
        (zeros(3, 7), "needs an even, positive number of elements"),
        (zeros(3, 0), "needs an even, positive number of elements"),
    ],
    (("geglu_linear",), "x"): [
        (zeros(3, 6), r"x \(3, 6\) and weight \(8, 5\) do not fit"),
        (zeros(3, 5).double(), "x is torch.float64 and weight torch.float32; a matmul needs one dtype"),
    ],
    (("geglu_linear",), "weight"): [
        (zeros(7, 5), "needs an even, positive number"),
        (zeros(8, 0), r"weight \(8, 0\) do not fit"),
    ],
    (("geglu_linear",), "bias"): [(zeros(4), r"bias has shape \(4,\); it needs \(8,\)")],
    (("adaln_residual",), "residual"): [(zeros(2, 3, 7), r"residual has shape \(2, 3, 7\)")],
    (("adaln_residual",), "weight"): [(zeros(7), r"weight has shape \(7,\); it needs \(8,\)")],
    (("adaln_residual",), "next_bias"): [
        (zeros(9), r"next_bias has shape \(9,\)"),
        (None, "next_weight and next_bias come together"),
    ],
    (("adaln_residual",), "scale"): [(zeros(3, 1, 8), "do not broadcast to h's")],
    (("adaln_residual",), "shift"): [(zeros(2, 1, 7), "do not broadcast to h's")],
    (("add_layer_norm",), "residual"): [(zeros(2, 8), r"residual has shape \(2, 8\); it needs branch's")],
    (("add_layer_norm",), "weight"): [(zeros(9), r"weight \(9,\) and bias \(8,\) need \(8,\)")],
    (("quantize_rows",), "x"): [
        (zeros(3, 0), r"x has shape \(3, 0\); it needs two axes"),
        (zeros(8), r"x has shape \(8,\); it needs two axes"),
    ],
    (("quantize_rows",), "geglu_bias"): [(zeros(4), r"bias has shape \(4,\); it needs \(8,\)")],
    (("short_attention",), "k"): [
        (zeros(2, 5, 128), r"q \(2, 3, 64\) and k \(2, 5, 128\) do not fit"),
        (zeros(1, 5, 64), r"k \(1, 5, 64\) do not fit"),
    ],
    (("short_attention",), "q"): [(zeros(2, 3, 63), r"q \(2, 3, 63\) and k")],
    (("short_attention",), "v"): [
        (zeros(2, 4, 64), r"v is torch.float32 \(2, 4, 64\); it needs k's"),
        (zeros(2, 5, 64).bfloat16(), "v is torch.bfloat16"),
    ],
    (("short_attention",), "bias"): [
        (zeros(2, 1, 3, 4), r"bias \(2, 1, 3, 4\) does not broadcast"),
        (zeros(2, 1, 3, 5).double(), "bias is torch.float64; it needs q's"),
    ],
    (("short_attention",), "q_gain"): [(zeros(63), r"q_gain has shape \(63,\); it needs \(64,\)")],
    (("short_attention",), "k_gain"): [(None, "q_gain and k_gain come together")],
    (("cached_attention",), "chosen"): [
        (ints(2, 3, 7, dtype=torch.int32), "chosen is torch.int32 with strides"),
        (ints(3, 2, 7), r"chosen \(3, 2, 7\) needs the slots"),
        (ints(2, 7, 3).mT, r"chosen is .* strides \(21, 1, 3\)"),
    ],
    (("cached_attention",), "span"): [
        (8, "span 8 do not fit"),
        (0, "span 0 do not fit"),
        (2.0, "span is 2.0; it needs a whole number"),
    ],
    (("cached_attention",), "query"): [
        (zeros(7, 8), r"query \(7, 8\), keys .* do not fit"),
        (zeros(6, 8).bfloat16(), "query is torch.bfloat16, keys"),
    ],
    (("cached_attention",), "keys"): [
        (zeros(2, 2, 7, 3, 4).half(), "keys torch.float16"),
        (zeros(2, 2, 7, 0, 4), r"keys \(2, 2, 7, 0, 4\).* do not fit"),
        (zeros(2, 2, 7, 4), r"keys \(2, 2, 7, 4\).* do not fit"),
        (zeros(2, 2, 7, 4, 3).mT, "keys and values have strides"),
    ],
    (("cached_attention",), "values"): [
        (zeros(2, 2, 3, 7, 4).transpose(2, 3), "keys and values have strides")
    ],
    (("cached_attention",), "bias"): [
        (zeros(1, 2, 4), r"bias is torch.float32 \(1, 2, 4\); it needs"),
        (zeros(3, 2, 5), r"bias is torch.float32 \(3, 2, 5\); it needs"),
        (zeros(2, 5), r"bias is torch.float32 \(2, 5\); it needs"),
        (zeros(1, 2, 5).double(), r"bias is torch.float64 \(1, 2, 5\)"),
    ],
    (("cached_attention",), "key"): [
        (None, "key and value come together, with a slot for every beam"),
        (zeros(6, 4), r"key is torch.float32 \(6, 4\), value .*; they need float32 \(6, 8\)"),
    ],
    (("cached_attention",), "value"): [(zeros(6, 8).double(), "value torch.float64")],
    (("cached_attention",), "rotary"): [(zeros(2, 3), r"rotary is torch.float32 \(2, 3\); it needs")],
    (("cached_attention",), "window"): [(0, "window is 0; it needs a whole number from 1")],
    (("merged_linear",), "x"): [
        (zeros(3, 6), r"x is torch.float32 \(3, 6\); it needs floating-point numbers of shape \(R, 5\)"),
        (ints(3, 5), "x is torch.int64"),
    ],
    (("merged_linear",), "first"): [
        (zeros(4, 5).half(), "they need floating-point numbers of one dtype"),
        (zeros(4, 6), r"weights \[\(4, 6\), \(4, 5\)\] do not fit"),
    ],
    (("merged_linear",), "bias"): [(zeros(5), "biases do not fit weights")],
    (("merged_linear",), "residual"): [
        (zeros(3, 8), r"residual is torch.float32 \(3, 8\); it needs torch.float32 \(3, 4\)"),
        (zeros(3, 4).double(), "residual is torch.float64"),
    ],
    (("merged_linear",), "glu"): [("tanh", "glu is 'tanh' for weights .*; it needs two of the same shape")],
    (("rms_norm",), "x"): [
        (zeros(3, 9), r"x \(3, 9\) and weight \(4,\) do not fit"),
        (ints(3, 8), "x is torch.int64"),
    ],
    (("rms_norm",), "eps"): [(-1.0, "eps -1.0; they need")],
    (("packed_linear",), "weight"): [
        (zeros(6, 5).half(), r"weight is torch.float16 \(6, 5\) on cpu; it"),
        (zeros(0, 5), r"weight is torch.float32 \(0, 5\)"),
    ],
    (("packed_linear",), "bias"): [
        (zeros(5), r"bias has shape \(5,\) on cpu; it needs \(6,\)"),
        (zeros(6).bfloat16(), "bias is torch.bfloat16; it needs torch.float32"),
    ],
    (("packed_linear",), "x"): [
        (zeros(3, 6), r"x is torch.float32 \(3, 6\) on cpu; it needs .* \(R, 5\)"),
        (zeros(3, 5).double(), "x is torch.float64"),
        (zeros(5), r"x is torch.float32 \(5,\)"),
    ],
    (("packed_linear",), "residual"): [
        (zeros(2, 6), r"residual is .* \(2, 6\) on cpu; it needs .*\(3, 6\)"),
        (zeros(3, 6).bfloat16(), "residual is torch.bfloat16"),
    ],
    (NARROW, "weight"): [
        (ints(6, 5), "weight is torch.int64"),
        (zeros(6, 0), r"weight is torch.float32 \(6, 0\)"),
    ],
    (NARROW, "bias"): [(zeros(3), r"bias has shape \(3,\) on cpu; it needs \(6,\)")],
    (NARROW, "dtype"): [(torch.float16, "dtype is torch.float16; it needs torch.bfloat16 or torch.int8")],
    (NARROW, "x"): [
        (zeros(3, 4), r"x is torch.float32 \(3, 4\) on cpu; it needs"),
        (zeros(3, 5).half(), "x is torch.float16"),
    ],
    (("byte_linear",), "weight"): [(zeros(6, 2**17 + 1), "weight has 131073 inputs; int8 matmuls take")],
}


def rows() -> list[tuple]:
    """(operation, argument, change, exception, a part of the message) of both tables."""
    return [
        (op, argument, change, error, sentence)
        for table, error in ((OUT_OF_RANGE, IndexError), (UNFIT, ValueError))
        for (operations, argument), changes in table.items()
        for op in operations
        for change, sentence in changes
    ]
