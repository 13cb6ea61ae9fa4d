"""A backend without a model, whose answers tests decide, and its server in this process."""

import threading

from ld4lg_fast.export.runtime.events import Finished, Partial
from ld4lg_fast.export.runtime.serving.backend import Abilities, Full, Load

NAME = "toy"


class ScriptedBackend:
    """Answers at once ``seed.sample``, or, while ``holds``, when a test calls `finish`."""

    def __init__(self, holds=False):
        self.abilities = Abilities(
            NAME,
            {"draft": 8, "paper": 250},
            ["unipc", "ddim"],
            32,
            takes=frozenset({"prompt", "start"}),
            can=frozenset({"interpolations", "infills"}),
            classes=("Sports", "World"),
        )
        self.holds, self.is_full, self.closed = holds, False, False
        self.held, self.cancelled = [], []
        self.changed = threading.Condition()

    def submit(self, request, on_event):
        if self.is_full:
            raise Full(2.5)
        with self.changed:
            self.held.append((request, on_event))
            self.changed.notify_all()
        if not self.holds:
            self.finish(request, on_event)

        def cancel():
            with self.changed:
                self.cancelled.append(request)
                self.changed.notify_all()

        return cancel

    def finish(self, request, on_event, reason="stop"):
        for sample in range(request.num_texts):
            for step in request.show_steps or ():
                on_event(Partial(sample, step, f"{step} of {sample}"))
            on_event(Finished(sample, f"{request.seed}.{sample} <b>one</b> two three", reason))

    def wait_for(self, condition, seconds=10):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), seconds)

    def interpolate(self, request):
        return [f"{request.first} {place} {request.second}" for place in range(request.n or 5)]

    def infill(self, request):
        return [request.text.replace("___", f"word {place}") for place in range(request.n or 4)]

    def count_tokens(self, texts):
        return sum(len(text.split()) for text in texts)

    def load(self):
        return Load(len(self.held), 7, 8)

    def close(self):
        self.closed = True
