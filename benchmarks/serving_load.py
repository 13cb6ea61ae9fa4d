"""Load of a server on this machine: throughput, waiting, right answers, memory, its end, and fuzzed bodies.

python benchmarks/serving_load.py [RUN] [--minutes 10] [--rounds 5] [--only NAME ...] [--json FILE]

Starts ``ld4lg serve`` on a free port and asks it as many clients do, with the preset `draft`:

* ``throughput``: 32 clients, one text each at the same time, against the same requests one after the other, in turns.
* ``late``: a request that arrives while 31 run, which have begun together (``burst``), and beside 31 clients that ask
  again and again (``steady``); its first event in steps of the busy engine, whose decoding and express steps are part
  of them, and its end against that of a request alone.
* ``mixed``: requests of all sizes, whole and as streams, clients that go away, readers that are slow, and bad requests,
  for ``--minutes``; answers against those of the pipeline, and the server's memory.
* ``fuzz``: 200 random bodies.
* ``end``: SIGTERM under load: every accepted request is answered, exit code 0.

Every text is compared with that of the pipeline for the same seed (``wrong_texts``).
The last line of the output is one JSON.
"""

import argparse
import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median

import httpx
from harness import describe_device, versions

from benchmarks.served_process import LD4LG, ServedProcess
from ld4lg_fast import TextDiffusionPipeline

CLIENTS = 32
SEEDS = 64  # of the mixed load; their texts are known
MOST = 4  # texts of a request of the mixed load
PARTS = ("throughput", "late", "mixed", "fuzz", "end")


def body(seed: int, n: int = 1, **more: object) -> dict:
    return {"seed": seed, "n": n, **more}


class Load:
    """Requests to one server, and the texts that they must give."""

    def __init__(self, client: httpx.AsyncClient, pipe: TextDiffusionPipeline) -> None:
        self.client, self.pipe = client, pipe
        self.known: dict[int, list[str]] = {}
        self.wrong = 0

    def expected(self, seed: int, n: int) -> list[str]:
        """The pipeline's own texts; those of fewer samples are the first of those of more."""
        if seed not in self.known or len(self.known[seed]) < n:
            self.known[seed] = self.pipe(n, seed=seed, quality="draft").texts
        return self.known[seed][:n]

    async def whole(self, seed: int, n: int = 1) -> int:
        """The status of one request, whose texts are compared."""
        answer = await self.client.post("/v1/completions", json=body(seed, n))
        if answer.status_code == 200:
            texts = [choice["text"] for choice in answer.json()["choices"]]
            self.wrong += texts != self.expected(seed, n)
        return answer.status_code

    async def events(self, asked: dict) -> AsyncIterator[tuple[float, dict]]:
        """Times since the request, and the events of a stream."""
        begun = time.perf_counter()
        async with self.client.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    yield time.perf_counter() - begun, json.loads(line.removeprefix("data: "))

    async def steps(self) -> float:
        """Steps of the engine since it began."""
        text = (await self.client.get("/metrics")).text
        return float(re.search(r"^ld4lg_steps_total (\S+)", text, re.M)[1])

    async def streamed(self, seed: int, n: int, pause: float = 0.0) -> None:
        """A stream whose texts are compared; ``pause`` seconds after every event."""
        texts = [""] * n
        async for _, event in self.events(body(seed, n, show_steps=[2, 5])):
            choice = event["choices"][0]
            texts[choice["index"]] += choice["text"]
            await asyncio.sleep(pause)
        self.wrong += texts != self.expected(seed, n)


async def throughput(load: Load, rounds: int) -> dict:
    """Texts a second of 32 clients at once, and of the same requests one after the other."""
    for seed in range(CLIENTS):
        load.expected(seed, 1)
    taken: dict[str, list[float]] = {"together": [], "one by one": []}
    await asyncio.gather(
        *(load.whole(seed) for seed in range(CLIENTS))
    )  # what is prepared late is prepared now
    for _ in range(rounds):
        begun = time.perf_counter()
        await asyncio.gather(*(load.whole(seed) for seed in range(CLIENTS)))
        taken["together"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for seed in range(CLIENTS):
            await load.whole(seed)
        taken["one by one"].append(time.perf_counter() - begun)
    seconds = {name: median(values) for name, values in taken.items()}
    return {
        "texts_per_s": {name: CLIENTS / value for name, value in seconds.items()},
        "gain": seconds["one by one"] / seconds["together"],
        "rounds_s": taken,
    }


async def late(load: Load, rounds: int) -> dict:
    """A request beside 31 that have begun at once, and beside 31 clients that ask again and again, against alone."""
    shown = body(0, show_steps=[1])

    async def probe() -> tuple[float, float]:
        """Seconds to the first event and to the end."""
        times = [at async for at, _ in load.events(shown)]
        return times[0], times[-1]

    async def beside_a_burst() -> tuple[float, float, float]:
        done, begun = await load.steps(), time.perf_counter()
        others = [asyncio.ensure_future(load.whole(seed)) for seed in range(1, CLIENTS)]
        while await load.steps() < done + 2:
            await asyncio.sleep(0.005)
        first, end = await probe()
        await asyncio.gather(*others)
        return first, end, (time.perf_counter() - begun) / (await load.steps() - done)

    async def keep_busy(seed: int) -> None:
        while running:
            await load.whole(seed)

    alone = [await probe() for _ in range(rounds + 1)][1:]
    burst = [await beside_a_burst() for _ in range(rounds)]
    running = True
    others = [asyncio.ensure_future(keep_busy(seed)) for seed in range(1, CLIENTS)]
    await asyncio.sleep(2)
    begun, done, steady = time.perf_counter(), await load.steps(), []
    for _ in range(2 * rounds):
        steady.append(await probe())
        await asyncio.sleep(random.random() / 5)
    step = (time.perf_counter() - begun) / (await load.steps() - done)
    running = False
    await asyncio.gather(*others)
    end_alone = median(end for _, end in alone)
    found: dict = {"alone_s": {"first": median(first for first, _ in alone), "end": end_alone}}
    for name, times in (("burst", burst), ("steady", [(*each, step) for each in steady])):
        first, end, step = (median(values) for values in zip(*times, strict=True))
        of_alone = {"first_event_in_steps": first / step, "end_against_alone": end / end_alone}
        found[name] = {"first_s": first, "end_s": end, "step_s": step, **of_alone}
    return found


async def mixed(load: Load, server: ServedProcess, minutes: float) -> dict:
    """All kinds of requests for some minutes."""
    for seed in range(SEEDS):
        load.expected(seed, MOST)
    end, statuses, kinds = time.monotonic() + 60 * minutes, Counter[int](), Counter[str]()
    memory: list[float] = []

    async def client(number: int) -> None:
        dice = random.Random(number)
        while time.monotonic() < end:
            seed, n = dice.randrange(SEEDS), dice.randint(1, MOST)
            kind = dice.choice(["whole", "whole", "stream", "slow", "gone", "bad", "pause"])
            kinds[kind] += 1
            if kind == "whole":
                statuses[await load.whole(seed, n)] += 1
            elif kind in ("stream", "slow"):
                await load.streamed(seed, n, 0.05 if kind == "slow" else 0.0)
            elif kind == "gone":
                async for _ in load.events(body(seed, n, show_steps=[1], quality="balanced")):
                    break
            elif kind == "bad":
                answer = await load.client.post("/v1/completions", json=body(seed, 0))
                statuses[answer.status_code] += 1
            else:
                await asyncio.sleep(dice.random())

    async def watch() -> None:
        while time.monotonic() < end:
            memory.append(server.memory_mib())
            await asyncio.sleep(1)

    await asyncio.gather(watch(), *(client(number) for number in range(CLIENTS // 2)))
    third = max(1, len(memory) // 3)
    early, last = median(memory[third : 2 * third] or memory), median(memory[-third:])
    metrics = (await load.client.get("/metrics")).text.splitlines()
    left = [line for line in metrics if line.startswith(("ld4lg_running_samples ", "ld4lg_waiting_samples "))]
    return {
        "minutes": minutes,
        "kinds": dict(kinds),
        "statuses": dict(statuses),
        "wrong_texts": load.wrong,
        "memory_mib": {"second_third": early, "last_third": last, "growth": last / early - 1},
        "left": left,
    }


async def fuzz(load: Load, count: int = 200) -> dict:
    """Statuses of random bodies, and how many refusals are not one sentence."""
    dice, statuses, unclear = random.Random(0), Counter[int](), 0
    names = [
        "n",
        "seed",
        "prompt",
        "stop",
        "steps",
        "quality",
        "sampler",
        "show_steps",
        "start",
        "strength",
        "x",
    ]
    values = [None, -1, 0, 3, 2.5, 1e400, 10**30, "", "a", "\u0000", [], [1], ["a"], {}, {"a": [{}]}, True]
    for _ in range(count):
        fields = {name: dice.choice(values) for name in dice.sample(names, dice.randint(1, 4))}
        content: bytes = json.dumps(dice.choice([fields, fields, fields, list(fields)])).encode()
        if dice.random() < 0.1:
            content = content[: dice.randrange(len(content))]
        answer = await load.client.post(
            "/v1/completions", content=content, headers={"Content-Type": "application/json"}
        )
        statuses[answer.status_code] += 1
        if answer.status_code != 200:
            said = answer.json()["error"]["message"]
            unclear += not said.endswith(".") or "\n" in said
    return {"bodies": count, "statuses": dict(statuses), "unclear": unclear}


async def end(load: Load, server: ServedProcess) -> dict:
    """SIGTERM while 32 clients ask again and again: answers by status; 0 is a connection that was refused."""
    statuses, stopped = Counter[int](), False

    async def client(seed: int) -> None:
        while True:
            try:
                status = await load.whole(seed)
            except httpx.ConnectError:  # the server has ended
                status = 0
            if stopped:
                statuses[status] += 1
                if status != 200:
                    return

    others = [asyncio.ensure_future(client(seed)) for seed in range(CLIENTS)]
    await asyncio.sleep(3)
    stopped = True
    server.terminate()
    found = await asyncio.gather(*others, return_exceptions=True)
    lost = [repr(each) for each in found if isinstance(each, Exception)]
    code, _ = await asyncio.to_thread(server.end)
    return {"after_sigterm": dict(statuses), "lost": lost, "exit_code": code}


async def measure(options: argparse.Namespace) -> dict:
    server = ServedProcess([*LD4LG, "serve", *([str(options.run)] if options.run else [])])
    pipe = TextDiffusionPipeline.from_pretrained(options.run)
    limits = httpx.Limits(max_connections=None)
    found: dict = {}
    async with httpx.AsyncClient(base_url=server.address, timeout=120, limits=limits) as client:
        load = Load(client, pipe)
        for part in options.only:
            work = {
                "throughput": lambda: throughput(load, options.rounds),
                "late": lambda: late(load, options.rounds),
                "mixed": lambda: mixed(load, server, options.minutes),
                "fuzz": lambda: fuzz(load),
                "end": lambda: end(load, server),
            }[part]
            found[part] = await work()
            print(part, json.dumps(found[part]), flush=True)
        found["wrong_texts"] = load.wrong
    if server.process.poll() is None:
        server.terminate()
        server.end()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, help="run directory; without it the model that ships")
    parser.add_argument("--minutes", type=float, default=10, help="of the mixed load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = asyncio.run(measure(options)) | {"device": describe_device("cpu"), "versions": versions()}
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
