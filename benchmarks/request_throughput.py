"""Requests of one text each, answered together by a `RequestEngine`, against the same one after the other.

python benchmarks/request_throughput.py [RUN] [--device cuda] [--requests 32] [--quality draft] [--json FILE]

RUN is a finished training, the model that ships where none is named. All ways run in turns; figures are medians.
``pipeline, one call`` is what there would be to gain if all requests were one. ``late`` is a request that arrives while
all others run: the steps of the engine until its first event, if its first step is shown, and otherwise its time to
the end over that of a request alone.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from harness import describe_device, versions

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.pipeline.continuous_batching import Finished, RequestEngine, SampleRequest, Ticket

LATE_SEED = 10_000


def finished_texts(tickets: Sequence[Ticket]) -> list[str]:
    """All texts of the tickets."""
    return [event.text for ticket in tickets for event in ticket.events() if isinstance(event, Finished)]


def ways(
    pipe: TextDiffusionPipeline, engine: RequestEngine, count: int, quality: str
) -> dict[str, Callable[[], list[str]]]:
    """Functions that give the texts of ``count`` requests with the seeds 0 … count-1."""
    requests = [SampleRequest(seed=seed, quality=quality) for seed in range(count)]
    return {
        "engine, together": lambda: finished_texts([engine.submit(request) for request in requests]),
        "engine, one after the other": lambda: [
            text for request in requests for text in finished_texts([engine.submit(request)])
        ],
        "pipeline, one after the other": lambda: [
            pipe(seed=seed, quality=quality).texts[0] for seed in range(count)
        ],
        "pipeline, one call": lambda: pipe(count, quality=quality).texts,
    }


def late_arrival(engine: RequestEngine, count: int, quality: str, shown: bool) -> float:
    """Of a request that arrives while all others run: steps until its first event if ``shown``, else its seconds."""
    others = engine.submit(SampleRequest(num_samples=count - 1, quality=quality))
    while not engine.stats().running_rows and not others.closed:
        time.sleep(1e-4)
    before, begun = engine.stats().steps, time.perf_counter()
    late = engine.submit(SampleRequest(seed=LATE_SEED, quality=quality, show_steps=[1] if shown else ()))
    next(late.events())
    found = engine.stats().steps - before if shown else time.perf_counter() - begun
    finished_texts([late, others])
    return found


def measure(options: argparse.Namespace) -> dict:
    pipe = TextDiffusionPipeline.from_pretrained(options.run).to(options.device)
    engine = RequestEngine(pipe, max_rows=options.max_rows, precision=options.precision)
    thread = threading.Thread(target=engine.run)
    thread.start()
    functions = ways(pipe, engine, options.requests, options.quality)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    first_events, ends = list[float](), list[float]()
    texts = {name: function() for name, function in functions.items()}  # compiles and packs what has to be
    for _ in range(options.rounds):
        for name, function in functions.items():
            begun = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begun)
        first_events.append(late_arrival(engine, options.requests, options.quality, shown=True))
        ends.append(late_arrival(engine, options.requests, options.quality, shown=False))
    engine.close()
    thread.join()
    rows = [
        {
            "name": name,
            "texts_per_s": options.requests / statistics.median(values),
            "fastest_s": min(values),
            "slowest_s": max(values),
        }
        for name, values in seconds.items()
    ]
    alone = statistics.median(seconds["engine, one after the other"]) / options.requests
    one_by_one, together = texts["pipeline, one after the other"], texts["engine, together"]
    return {
        "rows": rows,
        "alone_ms": 1e3 * alone,
        "late_first_event_steps": max(first_events),
        "late_over_alone": statistics.median(ends) / alone,
        "equal_texts": sum(a == b for a, b in zip(one_by_one, together, strict=True)),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="run directory; default: the model that ships")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--max-rows", type=int, default=64)
    parser.add_argument("--quality", default="draft")
    parser.add_argument("--precision", help="of the denoiser's matmuls")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    result = measure(options)
    for row in result["rows"]:
        print(f"{row['name']:32} {row['texts_per_s']:8.1f} texts a second")
    steps, end = result["late_first_event_steps"], result["late_over_alone"]
    print(f"late: first event after {steps} steps, end {end:.2f} x alone")
    print(f"{result['equal_texts']} of {options.requests} texts are the pipeline's")
    if options.json:
        settings = {name: value for name, value in vars(options).items() if name != "json"}
        settings["threads"] = torch.get_num_threads()
        result |= {"settings": settings, "device": describe_device(options.device), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(options.json)


if __name__ == "__main__":
    main()
