"""Text similarity by the words of each script, in the package, the exported runtime and the evaluation."""

import time
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu import corpus_bleu, sentence_bleu
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ld4lg_fast.cli.infer import default_name
from ld4lg_fast.decoding import reranking
from ld4lg_fast.decoding.reranking import choose, oracle
from ld4lg_fast.evaluation import ngrams, seq2seq
from ld4lg_fast.evaluation.report_page import _words
from ld4lg_fast.evaluation.unavailable import ModelUnavailable, Unavailable, check_known
from ld4lg_fast.export.runtime import decoding, pipeline, similarity
from ld4lg_fast.export.runtime.similarity import SIMILARITIES, bleu, rouge_l, set_apart, words
from ld4lg_fast.training.distillation import distinct_shares
from ld4lg_fast.training.reconstruction import _compare

# A text and another one of the same script; where it has spaces, words of several letters.
SPACED = {
    "English": ("the heron waits at the edge of the pond", "nobody knows where my keys went"),
    "Amharic": ("ሰማይ ዛሬ በጣም ሰማያዊ ነው ብዬ አስባለሁ", "ነገ ወደ ገበያ እንሄዳለን"),
    "Arabic": ("تنتظر البلشون على حافة البركة كل صباح", "لا أحد يعرف أين مفاتيحي"),
    "Arabic with vowels": ("تَنْتَظِرُ البَلَشُونُ عَلَى حَافَّةِ البِرْكَةِ كُلَّ صَبَاحٍ مُشْمِسٍ", "لَا أَحَدَ يَعْرِفُ مَكَانَ المَفَاتِيحِ"),
    "Armenian": ("սպիտակ ձին կանգնած է գետի ափին այսօր", "ոչ ոք չգիտի որտեղ են բանալիները"),
    "Bengali": ("বকটি প্রতিদিন সকালে পুকুরের ধারে দাঁড়িয়ে থাকে", "আমার চাবি কোথায় কেউ জানে না"),
    "Georgian": ("თეთრი ცხენი მდინარის ნაპირზე დგას დღეს", "არავინ იცის სად არის გასაღები"),
    "Greek": ("ο ερωδιός περιμένει στην άκρη της λίμνης", "κανείς δεν ξέρει πού είναι τα κλειδιά"),
    "Hebrew": ("האנפה מחכה כל בוקר על שפת הבריכה", "איש אינו יודע איפה המפתחות שלי"),
    "Hindi": ("बगुला हर सुबह तालाब के किनारे इंतज़ार करता है", "किसी को नहीं पता मेरी चाबियाँ कहाँ हैं"),
    "Korean": ("왜가리가 아침마다 연못 가에서 기다린다 오늘도", "아무도 내 열쇠가 어디 있는지 모른다"),
    "Persian": (
        "حواصیل هر روز کنار برکه می\u200cایستد و نگاه می\u200cکند",
        "هیچ\u200cکس نمی\u200cداند کلیدها کجاست",
    ),
    "Russian": ("цапля каждое утро ждёт на краю пруда", "никто не знает где мои ключи"),
    "Tamil": ("கொக்கு தினமும் காலையில் குளக்கரையில் காத்திருக்கும் இன்று", "என் சாவி எங்கே என்று யாருக்கும் தெரியாது"),
    "Turkish": (
        "balıkçıl her sabah gölün kıyısında bekler İşte",
        "anahtarlarımın nerede olduğunu kimse bilmiyor",
    ),
    "Ukrainian": ("чапля щоранку чекає на краю ставка їжаків", "ніхто не знає де мої ключі"),
    "Vietnamese": ("con diệc đợi ở bờ ao mỗi buổi sáng", "không ai biết chìa khóa của tôi ở đâu"),
}
UNSPACED = {
    "Burmese": ("ဗျိုင်းသည်နံနက်တိုင်းရေကန်အစပ်တွင်စောင့်နေသည်", "ကျွန်ုပ်၏သော့ဘယ်မှာလဲ"),
    "Chinese": ("苍鹭每天早晨在池塘边等待", "没有人知道我的钥匙在哪里"),
    "Chinese in traditional characters": ("蒼鷺每天早晨在池塘邊等待", "沒有人知道我的鑰匙"),
    "Chinese of rare characters": ("𠀋𠂉𠂢𠂤𠆢𠈓𠌫𠎁", "𠍱𠏹𠑊𠔉"),
    "Japanese": ("サギは毎朝池のほとりで待っている", "鍵がどこにあるか誰も知らない"),
    "Japanese of half width": ("ｻｷﾞﾊﾏｲｱｻｲｹﾉﾎﾄﾘﾃﾞﾏﾂ", "ｶｷﾞｶﾞﾄﾞｺﾆｱﾙｶ"),
    "Khmer": ("កុករង់ចាំនៅមាត់បឹងរៀងរាល់ព្រឹក", "គ្មាននរណាដឹងថាសោនៅឯណា"),
    "Lao": ("ນົກຍາງລໍຖ້າຢູ່ແຄມໜອງທຸກເຊົ້າ", "ບໍ່ມີໃຜຮູ້ວ່າກະແຈຢູ່ໃສ"),
    "Thai": ("นกกระสารออยู่ริมบึงทุกเช้า", "ไม่มีใครรู้ว่ากุญแจอยู่ที่ไหน"),
    "Tibetan": ("ཀྲུང་ཀྲུང་ནི་ཞོགས་པ་རྟག་ཏུ་མཚོ་འགྲམ་དུ་སྒུག", "ལྡེ་མིག་གང་དུ་ཡོད་མེད་སུས་ཀྱང་མི་ཤེས"),
}
SCRIPTS = SPACED | UNSPACED
BY_NAME = pytest.mark.parametrize("name", SIMILARITIES)


@BY_NAME
@pytest.mark.parametrize("script", SCRIPTS)
def test_candidates_are_distinguished_in_every_script(script, name):
    text, other = SCRIPTS[script]
    parts = text.split() if script in SPACED else list(text)
    space = " " if script in SPACED else ""
    begin, end = space.join(parts[:-1]), space.join(parts[1:])
    compare = SIMILARITIES[name]
    assert compare(text, text) == pytest.approx(100) and compare(other, other) == pytest.approx(100)
    assert compare(text, other) < 40 < 60 < compare(text, begin) < 100
    assert choose([begin, text, end], [0.0] * 3, name) == 1
    assert choose([other, begin, text, end], [0.0] * 4, name) != 0
    assert oracle([other, end, text], text, compare) == (2, pytest.approx(100))


@BY_NAME
@pytest.mark.parametrize("script", UNSPACED)
def test_scripts_without_spaces_have_a_word_a_character(script, name):
    text, _ = UNSPACED[script]
    count = len(words(text))
    assert count >= 8 and count == len(words(set_apart(text)))
    mixed = f"iPhone 15 {text} ok."
    assert words(mixed) == ("iphone", "15", *words(text), "ok")
    assert SIMILARITIES[name](mixed, mixed) == pytest.approx(100)


@given(
    st.text(st.characters(max_codepoint=127), max_size=40),
    st.text(st.sampled_from("ab AB1.,-!&;'\n_{~"), max_size=30),
)
@settings(max_examples=300, deadline=None)
def test_english_is_compared_as_published(text, reference):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for ours, theirs in ((text, reference), (reference, text), (reference, reference + " b")):
        assert rouge_l(ours, theirs) == pytest.approx(
            100 * scorer.score(theirs, ours)["rougeL"].fmeasure, abs=1e-9
        )
        assert bleu(ours, theirs) == sentence_bleu(ours, [theirs]).score
        assert set_apart(ours) == ours


PUNCTUATED = "“Café Rouge” — it’s £20–25 … isn't it? 2½ m² at №5™, naïve & co."


@pytest.mark.parametrize("text", [PUNCTUATED, *(text for text, _ in SPACED.values())])
def test_bleu_is_that_of_sacrebleu_where_there_are_spaces(text):
    for other in ("it's a cafe", text[:20], text[5:] + " x"):
        assert bleu(text, other) == sentence_bleu(text, [other]).score
        assert bleu(other, text) == sentence_bleu(other, [text]).score


def test_signs_that_are_no_letters_are_nobodys_words():
    """As in rouge-score for ASCII; unlike there, letters with accents are parts of words."""
    assert words(PUNCTUATED) == (
        *("café", "rouge", "it", "s", "20", "25", "isn", "t", "it", "2", "m", "at", "5", "naïve", "co"),
    )


# Of the reports that this library was tried with.
CHINESE = [
    ("今天天气怎么样", "今天的天气好吗"),
    ("怎么学会游泳", "游泳怎样才能学会"),
    ("火车几点出发？", "列车何时发车？"),
    ("这本书值得读吗。", "这本书好看吗，2 元"),
    ("去机场坐什么车", "到 A380 机场怎么走"),
]


def test_bleu_of_chinese_is_that_of_sacrebleus_own_tokens():
    for pair in CHINESE:
        for ours, theirs in (pair, pair[::-1]):
            assert bleu(ours, theirs) == sentence_bleu(ours, [theirs], tokenize="zh").score
    ours, theirs = zip(*CHINESE, strict=True)
    wanted = corpus_bleu(ours, [theirs], tokenize="zh").score
    assert seq2seq.sacrebleu(ours, theirs) == wanted > 9 > corpus_bleu(ours, [theirs]).score


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("É à la carte", unicodedata.normalize("NFD", "é À LA CARTE")),
        ("ガギグ", unicodedata.normalize("NFD", "ガギグ")),
        ("ＡＢＣ　１２３", "abc 123"),
        ("ｶﾞｷﾞｸﾞ", "ガギグ"),
        ("STRASSE", "straße"),
        ("ﬁne ﬂow", "fine flow"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("İSTANBUL", "i̇stanbul"),
    ],
)
def test_encodings_and_cases_of_one_word_are_one_word(one, other):
    assert words(one) == words(other) and rouge_l(one, other) == 100


def test_texts_without_words():
    assert words("😀🎉 ❤️") == ("😀", "🎉", "❤") and rouge_l("😀🎉", "🎉😀") == 50
    assert words("so 😀") == ("so",) and words("?!") == words("") == words("…") == ()
    for text in ("", "   ", "?!", "。", "\u0301", "\u200d"):
        assert rouge_l(text, text) == 0 and rouge_l(text, "a") == 0 and bleu("", text) == 0
    for name in SIMILARITIES:
        assert choose(["", "", ""], [0.0] * 3, name) == 0 and choose(["a"], [0.0], name) == 0


@BY_NAME
@pytest.mark.parametrize("piece", ["ab cd ef ", "今天天气", "ab", "กำ"])
def test_long_texts_take_seconds(piece, name):
    """The table of a longest common subsequence has quadratic size."""
    text = piece * (60_000 // len(piece))
    started = time.perf_counter()
    assert SIMILARITIES[name](text, text[:-1] + "x") > 90 or piece == "ab"
    assert time.perf_counter() - started < 20


@given(st.lists(st.sampled_from("abcd"), max_size=70), st.lists(st.sampled_from("abcd"), max_size=70))
@settings(max_examples=200, deadline=None)
def test_the_longest_common_subsequence_is_that_of_the_table(ours, theirs):
    table = [[0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    wanted = 200 * table[-1][-1] / max(1, len(ours) + len(theirs))
    assert rouge_l(" ".join(ours), " ".join(theirs)) == wanted


def test_package_and_runtime_choose_with_the_same_functions():
    assert reranking.SIMILARITIES is similarity.SIMILARITIES is pipeline.SIMILARITIES
    assert reranking.minimum_bayes_risk is pipeline.minimum_bayes_risk
    assert similarity.CHOICES is decoding.CHOICES


# The evaluation.


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_evaluation_sees_every_script(script):
    pytest.importorskip("rouge_score")
    text, other = SCRIPTS[script]
    same, mixed = ([text, other], [text, other]), ([text, other], [other, other])
    assert seq2seq.sacrebleu(*same) == pytest.approx(100) and seq2seq.sacrebleu(*mixed) < 90
    plain = seq2seq.rouge(*same)
    assert list(plain.values()) == [1.0] * 3 and seq2seq.rouge(*mixed)["rouge2"] < 0.8
    assert plain["rougeL"] == rouge_l(text, text) / 100
    if script in ("English", "Turkish"):
        assert seq2seq.rouge(*same, stem=True)["rouge1_stemmed"] == 1
    else:
        with pytest.raises(
            Unavailable, match=r"Porter's stemmer knows English words alone, and \d+% of these"
        ):
            seq2seq.rouge(*same, stem=True)


def test_rouge_of_english_is_as_published():
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    ours = ["The pubs serve running foods, it's $5!", "a_b c-d  X1", "", "flies"]
    theirs = ["the pub serves food; isn't it?", "A B C D x1 generously", "x", "fly"]
    for stem in (False, True):
        scorer = rouge_scorer.RougeScorer(list(seq2seq.ROUGE), use_stemmer=stem)
        pairs = [scorer.score(reference, text) for text, reference in zip(ours, theirs, strict=True)]
        wanted = [sum(pair[name].fmeasure for pair in pairs) / len(pairs) for name in seq2seq.ROUGE]
        assert list(seq2seq.rouge(ours, theirs, stem).values()) == wanted


def test_counts_see_every_script():
    assert ngrams.unique_words([UNSPACED["Chinese"][0]]) == 12
    assert ngrams.unique_words(["हिन्दी में हिन्दी", "Ёлка ёлка я"]) == 3
    assert ngrams.unique_words(["x_y don't a _z é_ 2½"]) == 5  # as word_count: \w counts an underscore
    pytest.importorskip("spacy")
    tokens = ngrams.tokens_of(["我喜欢茶。OK, 好", "It isn't so"])
    assert tokens == [["我", "喜", "欢", "茶", "。", "OK", ",", "好"], ["It", "is", "n't", "so"]]
    texts = ngrams.tokens_of([text for pair in UNSPACED.values() for text in pair])
    assert 0.8 < ngrams.diversity(texts) <= 1
    assert ngrams.memorization(texts, np.unique(ngrams.ngram_hashes(texts))) == 1


def word_tokenizer(**marks: str) -> PreTrainedTokenizerFast:
    """Knows a few English words."""
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "heron": 4, "waits": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **marks)


def test_models_that_do_not_know_the_script_are_left_out():
    tokenizer = word_tokenizer(unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    known, unknown = (
        [tokenizer(text)["input_ids"] for text in texts] for texts in (["a heron 鹭"], ["苍 鹭 a"])
    )
    check_known(known, tokenizer)
    check_known([], tokenizer)
    with pytest.raises(
        ModelUnavailable, match="does not know 67% of the tokens of these texts: name a model of"
    ):
        check_known(unknown, tokenizer)
    # Of a tokenizer of bytes the unknown token ends texts.
    check_known(unknown, word_tokenizer(unk_token="[UNK]", eos_token="[UNK]"))
    check_known(unknown, word_tokenizer())


def test_the_report_counts_words_of_every_script():
    texts = ["It isn't rock’n’roll, 'quoted'", "हिन्दी में 'बात'", "我喜欢茶"]
    assert _words(texts) == [
        ["it", "isn't", "rock’n’roll", "quoted"],
        ["हिन्दी", "में", "बात"],
        ["我", "喜", "欢", "茶"],
    ]


def test_reconstructions_are_compared_in_every_script():
    text = UNSPACED["Thai"][0]

    class Letters:
        """An autoencoder whose tokens are characters."""

        tokenizer = SimpleNamespace(all_special_ids=[])

        def decode_text(self, rows):
            return ["".join(map(chr, row)) for row in rows]

    pairs = [([*map(ord, text)], [*map(ord, text[:-4])])]
    found = _compare(Letters(), pairs, loss=1.0, swapped_loss=2.0, num_examples=1)
    assert 60 < found.bleu < 100


def test_samples_of_classes_have_files_of_their_own():
    settings = {"class_id": None, "sampler": "ddpm", "num_inference_steps": 2, "strategy": "beam", "seed": 0}
    names = [
        default_name(settings | {"class_name": name})
        for name in ("Спорт", "Новости", "科学", "Très bon", "a/b")
    ]
    assert len(set(names)) == 5 and names[-1] == "ddpm_2_beam_class_a-b_seed0.json"
    assert not any("/" in name for name in names)


def test_a_collapse_is_seen_in_every_script():
    assert distinct_shares(["我喜欢茶", "我喜欢茶"]) == (0.5, 0.5) and distinct_shares(
        ["हिन्दी में", "हिन्दी"]
    ) == (1, 2 / 3)
