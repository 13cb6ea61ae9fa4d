"""Rules of option values, shared by the package and the exported runtime."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ld4lg_fast.export.runtime.option_checks import (
    OPTIONS,
    Choice,
    Function,
    Interval,
    Number,
    Switch,
    Text,
    WholeNumber,
    complaint,
    elements,
    first_complaint,
    shown,
)

HUGE = 10 ** (4 * 1000)
NO_NUMBERS = ["hot", "", "3", None, True, False, [], [1], (1, 2), {}, {"a": 1}, object(), b"3", 1 + 2j]
NO_NUMBERS += [np.array([3]), torch.tensor([3]), torch.tensor(True), np.bool_(True)]
NOT_FINITE = [float("nan"), float("inf"), -float("inf"), np.float32("nan"), torch.tensor(float("inf"))]
NUMBERS = [name for name, rule in OPTIONS.items() if isinstance(rule, Number | WholeNumber)]


def named(value: object) -> str:
    """The value without its address, which differs in every process."""
    return shown(value).partition(" at 0x")[0]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [*NO_NUMBERS, *NOT_FINITE, 1e30, -1e30, 2**70, -(2**70), HUGE], ids=named)
def test_no_number_of_a_user_passes_that_is_none_or_is_out_of_all_bounds(name, value):
    said = complaint(name, value)
    assert said is not None and said.startswith(f"{name} is ") and said.count("\n") == 0
    assert said.endswith(f"; it must be {OPTIONS[name]}.") and len(said) < 250


@pytest.mark.parametrize("name", NUMBERS)
def test_the_bounds_themselves_pass_and_what_lies_beyond_does_not(name):
    rule = OPTIONS[name]
    if isinstance(rule, WholeNumber):
        good = [rule.least, rule.most, np.int64(rule.least), torch.tensor(rule.least)]
        bad = [rule.least - 1, rule.most + 1, rule.least + 0.5, float(rule.least)]
    else:
        step = 1e-7
        good = [rule.least + step, rule.most, np.float64(rule.most), torch.tensor(rule.most), 1]
        bad = [rule.least - step, rule.most + step]
        (bad if rule.above else good).append(rule.least)
    assert [value for value in good if complaint(name, value)] == []
    assert [value for value in bad if not complaint(name, value)] == []


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Choice(("a", "b")), ["a", "b"], ["c", "", None, 1, ["a"], {}, np.array(["a", "b"])]),
        (Switch(), [True, False, np.bool_(True)], [0, 1, "true", None, [True]]),
        (Text(), ["", "abc"], [1, None, b"abc", ["abc"]]),
        (Function(), [print], [1, None, "print"]),
        (
            Interval(),
            [(0, 1), [0.2, 0.2], np.array([0.1, 0.5]), torch.tensor([0.0, 1.0])],
            [(1, 0), (0,), (0, 1, 1), "01", None, 0.5, (0, "1"), (0, None), (float("nan"), 1), (-1, 1), {}]
            + [(0, True), torch.tensor(0.5), [[0, 1], [0, 1]]],
        ),
    ],
    ids=lambda part: type(part).__name__,
)
def test_rules_that_are_no_numbers(rule, good, bad):
    assert [value for value in good if not rule.allows(value)] == []
    assert [value for value in bad if rule.allows(value)] == []


def test_a_sentence_names_the_option_its_value_and_what_it_may_be():
    assert complaint("generation.top_p", 2) == (
        "generation.top_p is 2; it must be a finite number above 0 and at most 1."
    )
    assert complaint("seed", 2**64) == (
        "seed is 18446744073709551616; it must be a whole number from 0 to 2**64-1."
    )
    assert complaint("num_beams", np.int64(0)) == "num_beams is 0; it must be a whole number from 1 to 256."
    assert complaint("share", "x" * 999, Text()) is None
    assert complaint("spacing", 3, Choice(("time", "learned"))) == (
        "Unknown spacing 3; choose one of time, learned."
    )
    long = complaint("temperature", torch.ones(9, 9))
    assert long.startswith("temperature is tensor([[1., 1., ") and "\n" not in long and "..." in long


def test_the_first_of_several_is_named_alone_and_none_is_allowed_where_it_is_said():
    values = {"num_beams": 4, "top_p": 2, "temperature": "hot", "top_k": None}
    assert first_complaint(values).startswith("top_p is 2;")
    assert first_complaint({"top_k": None, "num_beams": 4}, may_be_none=("top_k",)) is None
    assert first_complaint({"top_k": None}).startswith("top_k is None;")


def test_the_elements_of_what_holds_some():
    assert elements(range(3)) == elements(torch.arange(3)) == elements(np.arange(3)) == [0, 1, 2]
    others = ("abc", b"abc", {"a": 1}, {1, 2}, frozenset({1, 2}), 3, None, torch.tensor(3))
    assert [elements(value) for value in others] == [None] * len(others)


def test_the_rules_are_imported_without_what_they_do_not_need():
    code = "import sys, ld4lg_fast.export.runtime.option_checks\n"
    code += "print({'torch', 'numpy', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
