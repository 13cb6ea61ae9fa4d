"""Each metric against a hand-computed example, a plain loop, or the package that others use."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.evaluation import bertscore, ngrams, seq2seq
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.confidence import student_quantile, summary
from ld4lg_fast.evaluation.features import language_model_features, sentence_features
from ld4lg_fast.evaluation.mauve import mauve_score
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.perplexity import text_perplexities
from ld4lg_fast.evaluation.unavailable import Unavailable
from tests.conftest import randomize

TEXTS = generate_demo_texts(60)


def save_language_model(tokenizer, directory):
    """A tiny causal language model whose folder's name lets `mauve-text` take it for a GPT-2."""
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, **sizes)
    randomize(GPT2LMHeadModel(config), std=0.3).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def language_model(tokenizer, tmp_path_factory):
    return save_language_model(tokenizer, tmp_path_factory.mktemp("models") / "gpt2-tiny")


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    """A tiny BERT whose tokenizer marks the ends of a text."""
    from tokenizers.processors import TemplateProcessing

    directory = tmp_path_factory.mktemp("models") / "bert-tiny"
    special = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    marked = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, model_max_length=64, **special
    )
    marks = [(token, marked.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    marked.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    sizes = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
    randomize(BertModel(config), std=0.3).save_pretrained(directory)
    marked.save_pretrained(directory)
    return str(directory)


def test_perplexity_is_the_mean_over_single_texts_behind_the_start_token(language_model):
    scorer = ScoringModels().language_model(language_model)
    expected = []
    for text in TEXTS[:7]:
        tokens = scorer.tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = scorer.model(torch.tensor([[scorer.tokenizer.bos_token_id, *tokens]])).logits[0]
        likelihoods = [logits[place].log_softmax(dim=0)[token].item() for place, token in enumerate(tokens)]
        expected.append(math.exp(-sum(likelihoods) / len(tokens)))
    for batch_size in (1, 3, 64):
        values = text_perplexities(TEXTS[:7], scorer, batch_size)
        np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert max(expected) > 1.1 * min(expected)


def test_perplexity_needs_a_start_token(language_model):
    scorer = ScoringModels().language_model(language_model)
    scorer.tokenizer.bos_token = None
    with pytest.raises(Unavailable, match="no start token"):
        text_perplexities(TEXTS[:2], scorer)


def test_mauve_and_its_features_are_those_of_mauve_text(language_model):
    package = pytest.importorskip("mauve")
    samples, references = TEXTS[:30], [" ".join(reversed(text.split())) for text in TEXTS[30:]]
    result = package.compute_mauve(
        p_text=samples,
        q_text=references,
        featurize_model_name=language_model,
        max_text_length=20,
        mauve_scaling_factor=3,
    )
    scorer = ScoringModels().language_model(language_model)
    ours, theirs = (language_model_features(texts, scorer, 20, 7) for texts in (samples, references))
    assert ours.shape == (30, 32)
    assert mauve_score(ours, theirs, 3) == pytest.approx(result.mauve, abs=1e-6)
    assert 0 < result.mauve < 0.999


def test_mauve_refuses_what_says_nothing():
    features = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.raises(Unavailable, match="MAUVE of 19 texts"):
        mauve_score(features[:19], features)
    pytest.importorskip("mauve")
    with pytest.raises(Unavailable, match="same features"):
        mauve_score(np.ones((20, 4)), np.ones((20, 4)))


def test_sentence_features_are_unit_means_over_the_tokens(encoder):
    scorer = ScoringModels().encoder(encoder)
    features = sentence_features(TEXTS[:5], scorer, batch_size=2)
    for text, feature in zip(TEXTS, features, strict=False):
        with torch.no_grad():
            ids = torch.tensor([scorer.tokenizer(text)["input_ids"]])
            mean = scorer.model(ids).last_hidden_state[0].mean(dim=0)
        np.testing.assert_allclose(feature, mean / mean.norm(), atol=1e-5)


def test_bertscore_is_that_of_bert_score(encoder):
    package = pytest.importorskip("bert_score")
    ours = bertscore.bert_scores(
        TEXTS[:9], TEXTS[9:18], ScoringModels().encoder(encoder), layer=2, batch_size=4
    )
    theirs = torch.stack(package.score(TEXTS[:9], TEXTS[9:18], model_type=encoder, num_layers=2), dim=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bertscore_of_equal_and_of_empty_texts(encoder):
    scorer = ScoringModels().encoder(encoder)
    scores = bertscore.bert_scores([TEXTS[0], "", TEXTS[1]], [TEXTS[0], TEXTS[1], " "], scorer, layer=3)
    torch.testing.assert_close(scores, torch.tensor([[1.0] * 3, [0.0] * 3, [0.0] * 3]), rtol=0, atol=1e-5)
    with pytest.raises(Unavailable, match="bertscore_layer 4 is more than the 3 layers"):
        bertscore.bert_scores(TEXTS[:1], TEXTS[:1], scorer, layer=4)
    with pytest.raises(Unavailable, match="evaluation.bertscore_layer=N"):
        bertscore.published_layer("some/model")


def test_ngram_metrics_of_a_hand_computed_example():
    tokens = [["a", "b", "a", "b", "c"], ["a", "b", "a"]]
    # bigrams ab ba ab bc | ab ba: 3 of 6; trigrams aba bab abc | aba: 3 of 4; 4-grams abab babc: 2 of 2
    assert ngrams.diversity(tokens) == pytest.approx(3 / 6 * 3 / 4 * 2 / 2)
    known = np.unique(ngrams.ngram_hashes([["x", "b", "a", "b", "c"], ["a", "b"]]))
    assert len(known) == 2 and ngrams.memorization(tokens, known) == 0.5
    assert ngrams.memorization([["a", "b", "a", "b"]], known) == 0.0
    with pytest.raises(Unavailable, match="no text is as long as 3 tokens"):
        ngrams.diversity([["a", "b"]])
    with pytest.raises(Unavailable, match="no text is as long as 4 tokens"):
        ngrams.memorization([["a", "b", "c"]], known)


def test_memorization_by_sorted_runs_on_disk_is_that_of_one_sorted_array(tmp_path, monkeypatch):
    training, texts = (
        generate_demo_texts(300),
        [*generate_demo_texts(340)[270:], "no such text is among them"],
    )
    grams = set(ngrams.ngram_hashes(ngrams.words_of(training)).tolist())
    hashes = ngrams.ngram_hashes(ngrams.words_of(texts))
    wanted = sum(gram in grams for gram in hashes.tolist()) / len(hashes)
    assert 0 < wanted < 1
    monkeypatch.setattr(ngrams, "best_tokens", lambda: ("_words", ngrams.words_of))
    monkeypatch.setattr(ngrams, "_CHUNK_TEXTS", 7)
    chunks = (ngrams.ngram_hashes(ngrams.words_of(training[i : i + 7])) for i in range(0, 300, 7))
    runs = list(ngrams.sorted_runs(chunks, 256))
    assert len(runs) > 3 and {len(run) for run in runs[:-1]} == {256} and 0 < len(runs[-1]) <= 256
    assert all((np.diff(run) > 0).all() for run in runs) and set(np.concatenate(runs).tolist()) == grams
    np.save(tmp_path / "runs.npy", np.concatenate(runs))
    mapped = np.load(tmp_path / "runs.npy", mmap_mode="r")
    assert ngrams.memorization(ngrams.words_of(texts), mapped, 256) == wanted
    for directory in (None, tmp_path / "cache", tmp_path / "cache", Path("/proc/nothing")):
        hashes = ngrams.TrainingNgrams(training, ArrayCache(directory)).hashes
        assert isinstance(hashes, np.memmap) == (directory == tmp_path / "cache")
        assert ngrams.memorization(ngrams.words_of(texts), hashes) == wanted
    (kept,) = (tmp_path / "cache").iterdir()
    assert np.load(kept).dtype == np.uint64
    kept.write_bytes(kept.read_bytes()[:-8])
    assert (ngrams.TrainingNgrams(training, ArrayCache(tmp_path / "cache")).hashes == hashes).all()


def test_no_training_text_of_four_tokens_is_no_memorization(tmp_path):
    for directory in (None, tmp_path, tmp_path):
        hashes = ngrams.TrainingNgrams(["a b c", ""], ArrayCache(directory)).hashes
        assert len(hashes) == 0 and ngrams.memorization([list("abcd")], hashes) == 0


def test_tokens_are_those_of_spacys_english_rules():
    pytest.importorskip("spacy")
    assert ngrams.tokens_of(["It isn't a $5.99 pub, is it?", ""]) == [
        ["It", "is", "n't", "a", "$", "5.99", "pub", ",", "is", "it", "?"],
        [],
    ]


def test_unique_words_are_those_of_word_count():
    texts = [*TEXTS, "The the THE café a I don't co-op x1 _y 2 Straße"]
    assert ngrams.unique_words(["The the pub, a pub"]) == 2
    features = pytest.importorskip("sklearn.feature_extraction.text")
    assert ngrams.unique_words(texts) == len(features.CountVectorizer().fit(texts).vocabulary_)


def test_rouge_and_bleu_of_a_hand_computed_example():
    pytest.importorskip("rouge_score")
    texts, references = ["the pubs serve food", "a"], ["the pub serves good food", "a"]
    # unigrams: the, food of 4 and 5; stemmed also pub, serv; longest common subsequence as the unigrams
    plain, stemmed = (seq2seq.rouge(texts, references, stem) for stem in (False, True))
    assert plain["rouge1"] == pytest.approx((4 / 9 + 1) / 2) and plain["rougeL"] == plain["rouge1"]
    assert plain["rouge2"] == 0
    assert stemmed["rouge1_stemmed"] == pytest.approx((8 / 9 + 1) / 2)
    assert seq2seq.sacrebleu(TEXTS[:3], TEXTS[:3]) == pytest.approx(100)
    # brevity exp(1 - 5/4), precisions 4/4, 3/3, 2/2, 1/1
    assert seq2seq.sacrebleu(["we like this pub"], ["we like this pub much"]) == pytest.approx(
        100 * math.exp(-0.25)
    )


@pytest.mark.parametrize(("degrees", "quantile"), [(1, 12.706), (2, 4.3027), (4, 2.7764), (30, 2.0423)])
def test_students_quantiles(degrees, quantile):
    assert student_quantile(0.975, degrees) == pytest.approx(quantile, rel=1e-4)


def test_summary_over_seeds():
    figures = summary([1.0, 2.0, 3.0])
    assert figures["mean"] == 2 and figures["std"] == 1 and figures["values"] == [1, 2, 3]
    half = 4.3027 / math.sqrt(3)
    assert figures["interval_95"] == pytest.approx([2 - half, 2 + half], rel=1e-4)
    assert summary([5]) == {"mean": 5, "values": [5]}
