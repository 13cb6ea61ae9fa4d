"""Corpora, tokenization and batches: from text files to tensors of token ids.

Imports checkpoints (atomic writes, the hub) and the rooms above it.
"""

from ld4lg_fast.data.batching import collate, shuffled_batches
from ld4lg_fast.data.catalogue import DATASETS
from ld4lg_fast.data.corpus import TextDataset, TextSplit, clean_up_spaces
from ld4lg_fast.data.demo import demo_dataset, generate_demo_texts
from ld4lg_fast.data.sources import load_from_config, load_text_dataset
from ld4lg_fast.data.token_cache import TokenizedTexts
from ld4lg_fast.data.tokenization import tokenize_texts, train_bpe_tokenizer

__all__ = [
    "DATASETS",
    "TextDataset",
    "TextSplit",
    "TokenizedTexts",
    "clean_up_spaces",
    "collate",
    "demo_dataset",
    "generate_demo_texts",
    "load_from_config",
    "load_text_dataset",
    "shuffled_batches",
    "tokenize_texts",
    "train_bpe_tokenizer",
]
