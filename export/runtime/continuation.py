"""Writes documents block by block from their prompts.

Letters: B documents, N latent positions, d latent width, P prefix tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from .contexts import BlockContexts
from .decoding import DecodingRules
from .documents import Document, DocumentWriter, block_seed
from .errors import RuntimeInputError
from .folder_schema import Documents, FolderConfig
from .guide_options import Chosen
from .guides import rows_of
from .option_checks import shown


class WritesBlocks(Protocol):
    """What this needs of an `OnnxTextDiffusion`: its settings, latents after documents, and tokens of latents."""

    @property
    def config(self) -> FolderConfig: ...

    @property
    def sample(self) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]: ...

    @property
    def decode_tokens(self) -> Callable[..., list[list[int]]]: ...


def check_no_documents(documents: Documents | None, **given: Any) -> None:
    """Refuses options of documents that were given to a model without them.

    Raises:
        RuntimeInputError: names the option.
    """
    for name, value in given.items():
        if value is not None and documents is None:
            raise RuntimeInputError(
                f"{name} is {shown(value)}, but this model was trained without documents; leave it out."
            )


def write_documents(
    model: WritesBlocks,
    contexts: BlockContexts,
    prompts: Sequence[str],
    max_new_tokens: int,
    rules: DecodingRules,
    seed: int,
    sample_ids: np.ndarray,
    *,
    class_ids: np.ndarray | None = None,
    guides: Mapping[str, Chosen] | None = None,
    **options: Any,
) -> list[str]:
    """What the model adds to each of the B prompts; ``options`` are those of its `sample`."""
    contexts.forget()
    rules = replace(rules, min_length=0)  # an empty block ends a document
    writer = contexts.writer()
    documents = [writer.begin(prompt) for prompt in prompts]
    number = 0
    while rows := [row for row, document in enumerate(documents) if not document.over]:
        active, own = [documents[row] for row in rows], block_seed(seed, number)
        options["class_ids"] = None if class_ids is None else class_ids[rows]
        options["guides"] = rows_of(guides or {}, rows)
        latents, _ = model.sample(sample_ids[rows], documents=active, seed=own, **options)
        for document, ids in zip(
            active, _decoded(model, writer, active, latents, rules, own, sample_ids[rows]), strict=True
        ):
            writer.extend(document, ids, max_new_tokens)
        number += 1
    return [document.written for document in documents]


def _decoded(
    model: WritesBlocks,
    writer: DocumentWriter,
    documents: Sequence[Document],
    latents: np.ndarray,
    rules: DecodingRules,
    seed: int,
    sample_ids: np.ndarray,
) -> list[list[int]]:
    """Token ids of each document's block, those with prefixes of one length decoded together."""
    config = model.config.documents
    between = list(config.between) if config else []
    prefixes = [writer.prefix(document) for document in documents]
    found: list[list[int]] = [[]] * len(documents)
    for length in set(map(len, prefixes)):
        rows = [row for row, prefix in enumerate(prefixes) if len(prefix) == length]
        prefix, how = None, rules
        if length:
            prefix = np.array([prefixes[row] + between for row in rows], np.int64)
            # It ends with what a text begins with, so that there is less to write.
            how = replace(rules, max_length=rules.max_length - len(between) + 1)
        ids = model.decode_tokens(latents[rows], None, how, seed, sample_ids[rows], prefix)
        for row, tokens in zip(rows, ids, strict=True):
            found[row] = tokens
    return found
