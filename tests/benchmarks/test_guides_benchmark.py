"""The benchmark of guides: attributes read from texts, targets, weights and the comparison with unguided texts."""

import sys
from pathlib import Path

import pytest

from ld4lg_fast.data.e2e_meanings import read_meanings

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from benchmarks import guides  # noqa: E402
from benchmarks.e2e_slots import has, slots  # noqa: E402


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A cheap Italian pub by the river.", {"priceRange": {"cheap"}, "food": {"Italian"}, "area": {"riverside"}}),
        ("It is not family-friendly and in the city centre.", {"familyFriendly": {"no"}, "area": {"city centre"}}),
        ("Kids are welcome; prices are less than £20.", {"familyFriendly": {"yes"}, "priceRange": {"cheap"}}),
        ("A moderately priced place near Raja Indian Cuisine.", {"priceRange": {"moderate"}}),
        ("Expensive, and no children.", {"priceRange": {"high"}, "familyFriendly": {"no"}}),
        ("High rating, £20-25, French and English food.", {"priceRange": {"moderate"}, "food": {"French", "English"}}),
        ("An adults only fast food place.", {"familyFriendly": {"no"}, "food": {"Fast food"}}),
    ],
)  # fmt: skip
def test_slots_are_read_from_texts(text, found):
    assert {slot: values for slot, values in slots(text).items() if values} == found
    for slot, values in found.items():
        assert all(has(text, slot, value) == (len(values) == 1) for value in values)


def test_meanings_are_labels(tmp_path):
    path = tmp_path / "trainset.csv"
    rows = ['"name[Cocum], priceRange[£20-25], familyFriendly[no]",Cocum is not for families.']
    rows += ['"name[The Mill], customer rating[5 out of 5], food[Fast food]",The Mill is great.'] * 3
    path.write_text("\n".join(["mr,ref", *rows]))
    found = read_meanings(path, 2)
    assert [found[name].labels[0] for name in ("name", "price", "family", "food")] == [
        "Cocum",
        "moderate",
        "no",
        None,
    ]
    assert found["rating"].labels == [None, "high"] and found["food"].labels == [None, "Fast food"]
    assert found["food"].texts == ["Cocum is not for families.", "The Mill is great."]


def test_every_combination_is_asked_for_as_often():
    targets = guides.targets_of(("area", "family"), 12)
    pairs = list(zip(targets["area"], targets["family"], strict=True))
    assert {pairs.count(pair) for pair in pairs} == {3} and len(set(pairs)) == 4


class Pipe:
    """Writes what is asked for, from a weight on."""

    def __call__(self, count, guides, guide_scales, seed, **options):
        (value,), (weight,) = guides.values(), guide_scales.values()
        good = count if weight >= 4 else count // 2
        return type("Output", (), {"texts": [f"A {value} place."] * good + ["A place."] * (count - good)})


def test_the_smallest_good_weight_is_chosen_and_compared():
    guided = guides.Guided(Pipe(), best_of=1, quality="draft")
    assert guided.best_weight(("area",), (1, 4, 8), 40, seed=1) == 4
    texts, targets = guided.texts(("area",), 4, 60, seed=0)
    assert guides.share(texts, targets) == 1
    unguided = ["A riverside pub."] * 25 + ["A pub."] * 50
    found = guides.against_unguided(texts, targets, unguided, lambda texts: {"count": len(texts)})
    assert found == {"guided": {"count": 25}, "unguided": {"count": 25}, "compared_attributes": 1}
    texts = ["a b c d e", "f g h i j", " "]
    assert guides.fluency(lambda texts: [2.0] * len(texts), texts) == {"perplexity": 2, "diversity": 1}
    assert guides.fluency(None, texts) == {"diversity": 1}
