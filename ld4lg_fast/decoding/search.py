"""Greedy search, sampling and beam search, a step of the whole batch at a time.

All that a step reads and writes, its position included, is a tensor on the device, and shapes depend on ``span`` only.
So a step does not synchronize with the host and can be captured as a CUDA graph.

Letters: S sentences, W beams, T = max_length tokens, V vocabulary.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from ld4lg_fast.decoding.cache import KeyValueCache
from ld4lg_fast.decoding.rules import Rules

IMPOSSIBLE = -1.0e9  # score of beams that must not be chosen, as in transformers


class Stack(Protocol):
    """A decoder with a cache of its own kind; `DecoderStack` and `CausalStack` describe the arguments."""

    def start(self, states: Tensor, mask: Tensor | None, num_beams: int, max_length: int) -> Any: ...

    def prefill(self, tokens: Tensor, cache: Any) -> None: ...

    def step(self, tokens: Tensor, position: Tensor, span: int, cache: Any) -> Tensor: ...


class Search(Protocol):
    """The state of a batch that is being decoded."""

    stack: Stack
    cache: KeyValueCache
    ids: Tensor
    length: Tensor

    def advance(self, span: int) -> None:
        """Adds one token to every text; ``span`` is at least their present length."""

    def done(self) -> Tensor:
        """(S,) bool: which sentences are finished."""

    def result(self) -> Tensor:
        """(S, T) the best text of each sentence so far."""

    def keep(self, sentences: Tensor) -> None:
        """Drops all sentences but those."""


def read_prefix(search: Search, prefix: Tensor) -> None:
    """Lets the decoder read the tokens (S, P) before the text; the text of every beam begins behind them."""
    ids, count = search.ids, prefix.shape[1]
    ids[..., 1 : count + 1] = prefix if ids.dim() == 2 else prefix[:, None]
    first = ids if ids.dim() == 2 else ids[:, 0]
    search.stack.prefill(first[:, :count], search.cache)  # the next step reads the last one
    search.length += count


class GreedySearch:
    """One text for each sentence, by the most probable token at each step."""

    def __init__(self, stack: Stack, cache: KeyValueCache, rules: Rules, sentences: int) -> None:
        device = rules.eos.device
        self.stack, self.cache, self.rules = stack, cache, rules
        self.ids = torch.full((sentences, rules.max_length), rules.pad, device=device)
        self.ids[:, 0] = rules.start
        self.finished = torch.zeros(sentences, dtype=torch.bool, device=device)
        self.length = torch.ones(1, dtype=torch.int64, device=device)

    def advance(self, span: int) -> None:
        last = self.length - 1
        logits = self.stack.step(self.ids.index_select(1, last).flatten(), last, span, self.cache)
        tokens = self.pick(logits).masked_fill(self.finished, self.rules.pad)
        self.ids.index_copy_(1, self.length, tokens[:, None])
        self.finished |= self.rules.ends(tokens)
        self.length += 1

    def pick(self, logits: Tensor) -> Tensor:
        """Tokens (S,) from logits (S, V)."""
        return self.rules.best(logits, self.ids, self.length, 1, normalize=False)[1].squeeze(1)

    def done(self) -> Tensor:
        return self.finished

    def result(self) -> Tensor:
        return self.ids

    def keep(self, sentences: Tensor) -> None:
        self.cache.keep(sentences)
        self.ids, self.finished = self.ids[sentences], self.finished[sentences]


class NucleusSearch(GreedySearch):
    """One text for each sentence, sampled with its uniform random numbers (S, T); limits as in `Rules.draw`."""

    def __init__(
        self, stack: Stack, cache: KeyValueCache, rules: Rules, uniforms: Tensor, **limits: Any
    ) -> None:
        super().__init__(stack, cache, rules, len(uniforms))
        self.uniforms, self.limits = uniforms, limits

    def pick(self, logits: Tensor) -> Tensor:
        uniform = self.uniforms.index_select(1, self.length - 1).squeeze(1)
        return self.rules.draw(logits, self.ids, self.length, uniform, **self.limits)

    def keep(self, sentences: Tensor) -> None:
        super().keep(sentences)
        self.uniforms = self.uniforms[sentences]


class BeamSearch:
    """transformers' beam search: W running texts for each sentence, and the W best complete ones with their scores."""

    def __init__(self, stack: Stack, cache: KeyValueCache, rules: Rules, sentences: int) -> None:
        device, beams = rules.eos.device, rules.num_beams
        self.stack, self.cache, self.rules = stack, cache, rules
        self.ids = torch.full((sentences, beams, rules.max_length), rules.fill, device=device)
        self.ids[:, :, 0] = rules.start
        self.scores = torch.zeros(sentences, beams, device=device)
        self.scores[:, 1:] = IMPOSSIBLE  # all beams are equal at first
        self.complete_ids = self.ids.clone()
        self.complete_scores = torch.full((sentences, beams), IMPOSSIBLE, device=device)
        self.complete = torch.zeros(sentences, beams, dtype=torch.bool, device=device)
        self.can_improve = torch.ones(sentences, 1, dtype=torch.bool, device=device)
        self.length = torch.ones(1, dtype=torch.int64, device=device)
        self.candidates = max(2, 1 + len(rules.eos)) * beams
        self.chosen_first = torch.arange(self.candidates, device=device) < beams

    def advance(self, span: int) -> None:
        rules, (sentences, beams, tokens) = self.rules, self.ids.shape
        last = self.length - 1
        logits = self.stack.step(self.ids.index_select(2, last).flatten(), last, span, self.cache)
        # The best candidates of all beams are among the best of each beam.
        count = min(self.candidates, logits.shape[1])
        scores, token = rules.best(logits, self.ids.view(-1, tokens), self.length, count, normalize=True)
        scores = (scores.view(sentences, beams, -1) + self.scores[:, :, None]).flatten(1)
        scores, place = scores.topk(self.candidates)
        parents = place // token.shape[-1]
        token = token.view(sentences, -1).gather(1, place)
        ids = _pick(self.ids, parents).index_copy_(2, self.length, token[:, :, None])
        ends = rules.ends(token) | (self.length + 1 >= rules.max_length)

        running, kept = (scores + ends.float() * IMPOSSIBLE).topk(beams)
        self._add_complete(ids, scores, ends)
        self.cache.choose_beams(parents.gather(1, kept))
        self.ids.copy_(_pick(ids, kept))
        self.scores.copy_(running)
        self.length += 1
        self._update_can_improve()

    def _add_complete(self, ids: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Merges the texts that have just ended into the complete ones and keeps the best."""
        added = ends & self.chosen_first
        scores = scores / self.rules.length_norm.index_select(0, self.length)
        if self.rules.early_stopping is True:
            scores = scores + self.complete.all(1, keepdim=True).float() * IMPOSSIBLE
        scores = scores + (~self.can_improve).float() * IMPOSSIBLE + (~added).float() * IMPOSSIBLE
        best, kept = torch.cat([self.complete_scores, scores], dim=1).topk(self.ids.shape[1])
        self.complete_ids.copy_(_pick(torch.cat([self.complete_ids, ids], dim=1), kept))
        self.complete.copy_(torch.cat([self.complete, added], dim=1).gather(1, kept))
        self.complete_scores.copy_(best)

    def _update_can_improve(self) -> None:
        """Checks whether a running text could still become better than the worst complete one."""
        rules = self.rules
        longest = rules.early_stopping == "never" and rules.length_penalty > 0
        norm = rules.length_norm[-2:-1] if longest else rules.length_norm.index_select(0, self.length - 1)
        worst = self.complete_scores.amin(1, keepdim=True)
        worst = torch.where(self.complete, worst, IMPOSSIBLE)
        self.can_improve &= (self.scores[:, :1] / norm > worst).any(1, keepdim=True)

    def done(self) -> Tensor:
        if self.rules.early_stopping is True:
            return ~self.can_improve[:, 0] | self.complete.all(1)
        return ~self.can_improve[:, 0]

    def result(self) -> Tensor:
        return self.complete_ids[:, 0]

    def keep(self, sentences: Tensor) -> None:
        self.cache.keep(sentences)
        for name in ("ids", "scores", "complete_ids", "complete_scores", "complete", "can_improve"):
            setattr(self, name, getattr(self, name)[sentences])


def _pick(ids: Tensor, beams: Tensor) -> Tensor:
    """The texts ``beams`` (S, C) of each sentence's ids (S, W, T)."""
    return ids.gather(1, beams[:, :, None].expand(-1, -1, ids.shape[2]))
