"""Guides of a model that writes documents: every block is led, each document to its own."""

from tests.pipeline.test_prompts import OPTIONS, PROMPTS, pipe  # noqa: F401  # a fixture


def test_each_block_of_a_document_is_led_to_its_own(pipe):  # noqa: F811
    texts = [f"The {'calm' if n % 2 else 'loud'} place {n} by the river." for n in range(30)]
    pipe.learn_guide("mood", texts, [("loud", "calm")[n % 2] for n in range(30)], num_samples=24)
    steps = []

    given = {"guides": {"mood": ["calm", None, "loud", None]}, "guide_scales": {"mood": 40}, **OPTIONS}
    free = pipe(prompt=PROMPTS, max_new_tokens=24, **OPTIONS).texts
    mixed = pipe(
        prompt=PROMPTS, max_new_tokens=24, callback=lambda step, *_: steps.append(step), **given
    ).texts
    assert mixed[1] == free[1] and mixed[3] == free[3], "those without a value are not led"
    assert steps.count(0) > 1, "there are several blocks"
    for row, value in ((0, "calm"), (2, "loud")):
        one = {"guides": {"mood": value}, "guide_scales": {"mood": 40}, "sample_ids": [row]}
        assert pipe(prompt=PROMPTS[row], max_new_tokens=24, **one, **OPTIONS).texts == [mixed[row]]
    assert mixed != free
