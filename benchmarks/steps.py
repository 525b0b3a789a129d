"""How fast and in how much memory does `srl steps` read agents' trajectories? Everything here is generated.

    python benchmarks/steps.py            # both tables; about 5 minutes
    python benchmarks/steps.py --small    # a hundredth of the trajectories

1. Throughput: JSONL messages with tool calls, and SWE-smith's XML, observations of 3,000 characters on average.
   Beside it the floor: the same lines through the JSON parser alone.
2. Memory: 5,000 trajectories of 28 steps (135k step instances), observations of 100,000 characters, 14 GB in
   a compressed file; peak memory against that of 1% of it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import orjson

WORDS = [f"{random.Random(i).getrandbits(40):x}" for i in range(5_000)]


def text(rng: random.Random, characters: int) -> str:
    return " ".join(rng.choices(WORDS, k=max(1, characters // 11)))


def xml_trajectory(rng: random.Random, index: int, n_steps: int, observation: str | None = None) -> dict:
    messages = [
        {"role": "system", "content": text(rng, 3_000)},
        {"role": "user", "content": f"issue {index}: {text(rng, 3_000)}"},
    ]
    for _ in range(n_steps):
        call = f"<function=bash>\n<parameter=command>{text(rng, 200)}</parameter>\n</function>"
        messages.append({"role": "assistant", "content": f"{text(rng, 200)}\n\n{call}"})
        seen = text(rng, rng.randrange(6_000)) if observation is None else observation
        messages.append({"role": "user", "content": f"OBSERVATION:\n{seen}"})
    return {"messages": messages, "instance_id": f"repo-{index}", "resolved": True}


def tool_trajectory(rng: random.Random, index: int, n_steps: int) -> dict:
    row = xml_trajectory(rng, index, n_steps)
    for turn in row["messages"]:
        if turn["role"] == "assistant":
            arguments = json.dumps({"command": turn["content"][-200:]})
            call = {"id": "c", "type": "function", "function": {"name": "bash", "arguments": arguments}}
            turn.update(content=turn["content"][:200], tool_calls=[call])
        elif turn["content"].startswith("OBSERVATION"):
            turn["role"] = "tool"
    return row


def run(*arguments: str) -> dict:
    """One measurement in a process of its own, for its peak memory."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(path: Path, out: Path | None) -> dict:
    from srl.data.prepare import StepOptions, prepare
    from srl.data.sources import Source

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    report = prepare(Source(path), out, StepOptions(hold_out=0.0))
    return {
        "seconds": time.process_time() - start,
        "instances": sum(report.instances.values()),
        "MiB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imported) / 1024,
    }


def throughput(folder: Path, n: int) -> None:
    print("| rows | MB | parser alone, MB/s | read, cut, counted (--check), MB/s | and written, MB/s |")
    print("|---|---|---|---|---|")
    for name, make in {"messages with tool calls": tool_trajectory, "SWE-smith XML": xml_trajectory}.items():
        path = folder / "rows.jsonl"
        rng = random.Random(0)
        with path.open("wb") as file:
            for index in range(n):
                file.write(orjson.dumps(make(rng, index, 27)) + b"\n")
        size = path.stat().st_size / 1e6
        start = time.process_time()
        with path.open("rb") as lines:
            for line in lines:
                orjson.loads(line)
        parser = time.process_time() - start
        check, written = run("measure", str(path)), run("measure", str(path), str(folder / f"out-{name}"))
        speeds = [f"{size / seconds:.0f}" for seconds in (parser, check["seconds"], written["seconds"])]
        print(f"| {name} | {size:.0f} | {' | '.join(speeds)} |", flush=True)


def memory(folder: Path, n: int) -> None:
    print("| trajectories | step instances | JSON, GB | CPU seconds | MB/s | memory beside the imports, MiB |")
    print("|---|---|---|---|---|---|")
    for count in (n // 100, n):
        path = folder / "rows.jsonl.gz"
        rng = random.Random(0)
        observation = text(rng, 1_000).ljust(100_000, ".")
        size = 0
        with gzip.open(path, "wb", compresslevel=1) as file:
            for index in range(count):
                size += file.write(orjson.dumps(xml_trajectory(rng, index, 28, observation)) + b"\n")
        found = run("measure", str(path), str(folder / f"out-{count}"))
        speed = size / 1e6 / found["seconds"]
        print(
            f"| {count} | {found['instances']} | {size / 1e9:.2f} | {found['seconds']:.0f} | {speed:.0f} | "
            f"{found['MiB']:.0f} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a hundredth of the trajectories")
    small = parser.parse_args().small
    with tempfile.TemporaryDirectory() as folder:
        throughput(Path(folder), 20 if small else 1_000)
        print()
        memory(Path(folder), 100 if small else 5_000)


if __name__ == "__main__":
    main()
