"""Helpers of the Triton kernels: reading rows as float32, the layer norm of a row, block sizes."""

import triton
import triton.language as tl

_MAX_WIDTH = 16384  # one program holds a whole row


@triton.jit
def load_floats(pointers: tl.tensor, keep: tl.tensor) -> tl.tensor:
    """float32 of the elements to keep, 0 for the others."""
    return tl.load(pointers, mask=keep, other=0.0).to(tl.float32)


@triton.jit
def centered(
    row: tl.tensor, keep: tl.tensor, eps: tl.tensor, WIDTH: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Mean of a row, the row minus its mean, and 1/std. Elements not to keep are 0 on both sides."""
    mean = tl.sum(row, 0) / WIDTH
    difference = tl.where(keep, row - mean, 0.0)
    return mean, difference, 1.0 / tl.sqrt_rn(tl.sum(difference * difference, 0) / WIDTH + eps)


@triton.jit
def through_norm(grad: tl.tensor, normed: tl.tensor, rstd: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Gradient of a row from that of its normalized form."""
    along = tl.sum(grad * normed, 0) / WIDTH
    return rstd * (grad - tl.sum(grad, 0) / WIDTH - normed * along)


def launch_options(width: int) -> dict[str, int]:
    """Block and warps for rows of this width, a program each: about 8 elements a thread.

    Raises:
        ValueError: a row that is too long for one program.
    """
    if width > _MAX_WIDTH:
        raise ValueError(f"a row may have at most {_MAX_WIDTH} elements on the GPU, got {width}")
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 256))}
