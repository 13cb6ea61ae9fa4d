"""A small autoregressive language model of a corpus: a baseline for generated texts, and their scoring LM.

Letters: B batch, T tokens.
"""

import math
import time
from collections.abc import Sequence
from itertools import count

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from ld4lg_fast.data import collate, shuffled_batches, tokenize_texts
from ld4lg_fast.models.lm_attention import use_short_attention
from ld4lg_fast.training.train_section import cpu_has_bf16


def train_corpus_model(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    steps: int,
    max_seconds: float = math.inf,
    dim: int = 192,
    layers: int = 4,
    max_len: int = 64,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    dropout: float = 0.0,
    seed: int = 0,
) -> GPT2LMHeadModel:
    """A GPT-2 of ``layers`` layers and heads of 64, trained from scratch for ``steps`` or ``max_seconds``.

    AdamW with a cosine to zero, batches of like length, bf16 where the CPU has it; a text is ``<s> tokens </s>``.
    ``dropout`` is that of embeddings and branches; for corpora that are read many times.
    """
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=max_len,
        n_embd=dim,
        n_layer=layers,
        n_head=dim // 64,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPT2LMHeadModel(config).train()
    use_short_attention(model, model.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    tokens = tokenize_texts(list(texts), tokenizer, max_len)
    start, step = time.perf_counter(), 0
    for epoch in count():
        for batch in shuffled_batches(
            len(tokens), batch_size, seed=seed, epoch=epoch, lengths=tokens.lengths
        ):
            progress = max(step / steps, (time.perf_counter() - start) / max_seconds)
            if progress >= 1:
                return model.eval()
            for group in optimizer.param_groups:
                group["lr"] = (
                    learning_rate * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * progress)) / 2
                )
            ids, mask = collate([tokens[index] for index in batch], tokenizer.pad_token_id)
            labels = ids.masked_fill(~mask.bool(), -100)
            with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
                loss = model(ids, attention_mask=mask.long(), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1


@torch.no_grad()
def sample_corpus_model(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerBase,
    num_texts: int,
    seed: int = 0,
    batch_size: int = 256,
    top_p: float = 1.0,
) -> list[str]:
    """Texts drawn token by token from the model's own probabilities, or the most probable ``top_p`` of them."""
    torch.manual_seed(seed)
    texts: list[str] = []
    while len(texts) < num_texts:
        start = torch.full((min(batch_size, num_texts - len(texts)), 1), tokenizer.bos_token_id)
        ids = model.generate(start, do_sample=True, top_k=0, top_p=top_p, max_length=model.config.n_positions)
        texts += [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    return texts
