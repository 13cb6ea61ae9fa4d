"""What the denoiser attends to: source texts, or the blocks of a document before the one that is written.

Letters: B batch, M context positions, K context blocks, N latent positions, d latent width.
"""

from collections.abc import Sequence

import numpy as np

from .documents import Document, DocumentWriter
from .folder_schema import FolderConfig
from .session import Session
from .text_tokenizer import TextTokenizer

Context = dict[str, np.ndarray]
"""The denoiser's inputs: keys and values (B, M, …) for each of its blocks, ``source_mask`` and ``has_source``."""


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (B, T) and their mask."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad, np.int64)
    ids[mask] = np.concatenate(rows)
    return ids, mask


def _run(graph: Session, feeds: dict[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    shapes = {name: (rows, *shape[1:]) for name, (_, shape) in graph.output_signature.items()}
    return {name: value.numpy() for name, value in graph.run(feeds, shapes).items()}


class SourceContexts:
    """Encodes source texts; equal ones once."""

    def __init__(self, graph: Session, tokenizer: TextTokenizer, pad: int) -> None:
        self._graph, self._tokenizer, self._pad = graph, tokenizer, pad

    def __call__(self, sources: Sequence[str]) -> Context:
        distinct = {text: index for index, text in enumerate(dict.fromkeys(sources))}
        ids, mask = padded(self._tokenizer.encode(list(distinct)), self._pad)
        encoded = _run(self._graph, {"input_ids": ids, "attention_mask": mask}, len(distinct))
        index = [distinct[text] for text in sources]
        given = {name: value[index] for name, value in encoded.items()}
        return given | {"source_mask": mask[index], "has_source": np.ones(len(sources), bool)}


class BlockContexts:
    """Encodes the blocks before the one that is written.

    Args:
        blocks_to_ids: the tokenizer with the limit of a block.
    """

    def __init__(
        self,
        config: FolderConfig,
        encoder: Session,
        context: Session,
        tokenizer: TextTokenizer,
        blocks_to_ids: TextTokenizer,
    ) -> None:
        self._config, self._encoder, self._graph = config, encoder, context
        self._tokenizer, self._blocks_to_ids = tokenizer, blocks_to_ids
        self._latents: dict[str, np.ndarray] = {}

    def writer(self) -> DocumentWriter:
        """A writer of documents with this model's tokens."""
        documents = self._config.documents
        assert documents is not None
        tokenizer = self._tokenizer
        return DocumentWriter(
            tokenizer.encode_plain, tokenizer.decode_plain, documents.block_tokens, documents.prefix_tokens
        )

    def forget(self) -> None:
        """Drops the latents of blocks that were encoded."""
        self._latents.clear()

    def __call__(self, documents: Sequence[Document]) -> Context:
        """The context of each document's next block."""
        config, diffusion = self._config.documents, self._config.diffusion
        assert config is not None
        most = config.context_blocks
        seen = [document.blocks[-most:] for document in documents]
        distinct = {
            text: place
            for place, text in enumerate(dict.fromkeys(text for blocks in seen for text in blocks))
        }
        self._encode(list(distinct))
        # Without a block before there is still a place, which is not seen.
        latents = np.zeros((max(1, len(distinct)), diffusion.num_latents, diffusion.dim_latent), np.float32)
        for text, place in distinct.items():
            latents[place] = self._latents[text]
        index = [[0] * (most - len(blocks)) + [distinct[text] for text in blocks] for blocks in seen]
        feeds: dict[str, np.ndarray] = {
            "latents": latents,
            "index": np.array(index, np.int64),
            "num_blocks": np.array([len(blocks) for blocks in seen], np.int64),
            "begins": np.array([len(document.blocks) <= most for document in documents]),
            "continues": np.array([document.continues for document in documents]),
        }
        given = _run(self._graph, feeds, len(seen))
        return given | {"has_source": np.ones(len(seen), bool)}

    def _encode(self, texts: Sequence[str]) -> None:
        unknown = [text for text in dict.fromkeys(texts) if text not in self._latents]
        if not unknown:
            return
        ids, mask = padded(self._blocks_to_ids.encode(unknown), self._config.generation.pad_token)
        encoded = _run(self._encoder, {"input_ids": ids, "attention_mask": mask}, len(unknown))
        self._latents.update(zip(unknown, encoded["latents"], strict=True))
