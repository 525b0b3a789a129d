"""A server that others keep: `srl evaluate http://…` against `transformers serve` gives what this process gives."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from transformers.utils.import_utils import is_serve_available

from srl.evaluation.config import EvaluationOptions
from srl.evaluation.evaluate import evaluate
from srl.evaluation.samples import read_samples
from srl.files import write_jsonl

SERVE = "from transformers.cli.transformers import main; main()"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="needs fastapi and uvicorn: pip install transformers[serving]"),
]


@contextmanager
def served(model, tmp_path):
    """The address of `transformers serve`, once it answers; its cache is empty."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "cache").mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "cache")}
    options = ["--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", str(model), *options], env=environment, stdout=log, stderr=log
        )
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (URLError, OSError):
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def completions(source, folder, problems, protocol, model=None):
    options = EvaluationOptions(protocol=protocol, max_tokens=48, max_steps=3, system_prompt="", engine="transformers")
    evaluate(str(source), folder, str(problems), options, model=model)
    return {sample.problem_id: (sample.completions, sample.end, sample.correct) for sample in read_samples(folder)}


def test_greedy_completions_are_those_of_this_process(tiny_student, tmp_path):
    """This server takes the thought off, and hands it over as `reasoning_content`."""
    model = tiny_student / "model"
    problems = tmp_path / "problems.jsonl"
    write_jsonl(problems, [{"problem": f"{a} {b} 5 (90)", "answer": str(max(a, b, 5))} for a, b in ((1, 7), (9, 2))])
    with served(model, tmp_path) as url:
        for protocol in ("stepwise", "answer"):
            here = completions(model, tmp_path / f"here-{protocol}", problems, protocol)
            there = completions(url, tmp_path / f"there-{protocol}", problems, protocol, model=str(model))
            assert there == here
        turns = [{"role": "user", "content": "Question: 1 7 5 (90)\n\nSolution:\n"}]
        asked = {"model": str(model), "messages": turns, "max_tokens": 48, "temperature": 0}
        request = Request(f"{url}/chat/completions", json.dumps(asked).encode(), {"content-type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            message = json.load(answer)["choices"][0]["message"]
    assert message["reasoning_content"]
    assert "<think>" not in message["content"]
