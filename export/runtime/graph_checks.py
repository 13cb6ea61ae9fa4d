"""Checks that the inputs and outputs of a folder's graphs are those that its config implies.

Letters: B batch, N latent positions, d latent width, M source length, S sentences, W beams, T cached tokens,
H heads, K head width, V vocabulary.
"""

from collections.abc import Iterator, Mapping

from .errors import RuntimeInputError
from .folder_schema import FolderConfig
from .json_files import REMEDY
from .session import Session, Signature

FLOAT, INT, BOOL = "tensor(float)", "tensor(int64)", "tensor(bool)"


def check_graphs(config: FolderConfig, graphs: Mapping[str, Session]) -> int:
    """Compares the inputs and outputs of every graph with those that the runtime uses.

    Returns:
        The size of the vocabulary V.

    Raises:
        RuntimeInputError: a graph has another interface.
    """
    for part in (_denoiser, _decoder):
        for name, inputs, outputs in part(config, graphs):
            _compare(graphs[name], "input", graphs[name].input_signature, inputs)
            _compare(graphs[name], "output", graphs[name].output_signature, outputs)
    vocabulary = graphs["decoder"].output_signature["logits"][1][2]
    if vocabulary is None or vocabulary < 1:
        raise RuntimeInputError(f"{graphs['decoder'].path} has a vocabulary of unknown size; {REMEDY}.")
    return vocabulary


Interface = tuple[str, Signature, Signature]  # a graph's name, its inputs and its outputs


def _denoiser(config: FolderConfig, graphs: Mapping[str, Session]) -> Iterator[Interface]:
    diffusion, positions = config.diffusion, _positions(config)
    latents = (FLOAT, (None, positions, diffusion.dim_latent))
    inputs = {"z_t": latents, "time": (FLOAT, (None if diffusion.class_modulates else 1,))}
    if diffusion.has_mask:
        inputs["mask"] = (BOOL, (None, None))
    if diffusion.self_condition:
        inputs |= {"x_self_cond": latents, "has_self_cond": (BOOL, (1,))}
    if diffusion.num_classes:
        inputs["class_id"] = (INT, (None,))
    texts = {"input_ids": (INT, (None, None)), "attention_mask": (BOOL, (None, None))}
    if config.source or config.documents:
        # Keys and values (B, M, …) for each block, all of the type and width of the first.
        mask = {"source_mask": (BOOL, (None, None))}
        given = graphs["source" if config.source else "context"].output_signature
        kind, sizes = next(iter(given.values()), (FLOAT, (0,)))
        count = len([name for name in given if name not in mask])
        blocks = {f"source.{number}": (kind, (None, None, sizes[-1])) for number in range(max(1, count))}
        inputs |= {**blocks, **mask, "has_source": (BOOL, (None,))}
        if config.source:
            yield "source", texts, blocks
    if documents := config.documents:
        index = {"index": (INT, (None, documents.context_blocks)), "num_blocks": (INT, (None,))}
        flags = {"begins": (BOOL, (None,)), "continues": (BOOL, (None,))}
        yield "context", {"latents": latents, **index, **flags}, {**blocks, **mask}
        yield "encoder", texts, {"latents": latents}
    yield "denoiser", inputs, {"output": latents}


def _decoder(config: FolderConfig, graphs: Mapping[str, Session]) -> Iterator[Interface]:
    positions, given = _positions(config), graphs["latents"].output_signature
    kind, sizes = next(iter(given.values()), (FLOAT, ()))
    heads, width = (sizes[1], sizes[3]) if len(sizes) == 4 else (0, 0)

    def caches(prefix: str, *middle: int | None) -> Signature:
        names = [f"{layer}.{part}" for layer in range(max(1, len(given) // 2)) for part in ("key", "value")]
        return {f"{prefix}.{name}": (kind, (None, heads, *middle, width)) for name in names}

    mask = {"mask": (BOOL, (None, None))} if config.diffusion.has_mask else {}
    state = {**caches("past", None, None), **caches("cross", None), **mask}
    yield (
        "latents",
        {"latents": (FLOAT, (None, positions, config.diffusion.dim_latent))},
        caches("cross", positions),
    )
    step = {"tokens": (INT, (None, None)), "position": (INT, (1,)), "bias": (FLOAT, (None, None, None))}
    logits = {"logits": (FLOAT, (None, None, config.vocab_size))}
    yield "decoder", {**step, **state}, {**logits, **caches("present", None, None)}
    yield (
        "cache",
        {"sentences": (INT, (None,)), **state},
        {f"next.{name}": entry for name, entry in state.items()},
    )


def _positions(config: FolderConfig) -> int | None:
    """N; None in recipe v1, where it varies with the batch."""
    return None if config.diffusion.has_mask else config.diffusion.num_latents


def _compare(graph: Session, what: str, found: Signature, wanted: Signature) -> None:
    for name in (*wanted, *found):
        if name not in found or name not in wanted:
            state = "no" if name in wanted else "an unknown"
            raise RuntimeInputError(f"{graph.path} has {state} {what} {name!r}; {REMEDY}.")
        (kind, sizes), (wanted_kind, wanted_sizes) = found[name], wanted[name]
        fits = kind == wanted_kind and len(sizes) == len(wanted_sizes)
        if not fits or any(
            asked not in (None, size) for size, asked in zip(sizes, wanted_sizes, strict=True)
        ):
            raise RuntimeInputError(
                f"The {what} {name} of {graph.path} is {kind} of the sizes {_shown(sizes)}; {graph.path.parent} needs "
                f"{wanted_kind} of {_shown(wanted_sizes)}: {REMEDY}."
            )


def _shown(sizes: tuple[int | None, ...]) -> str:
    return f"({', '.join('any' if size is None else str(size) for size in sizes)})"
