"""The Hub without a network: what is not in the cache is one line at once, without tries that last half a minute."""

import base64
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import datasets.config
import pytest
from huggingface_hub import constants

from srl.chat.tokenizer import load_chat
from srl.data.inputs import HubSource, hub_rows
from srl.errors import UserError
from srl.evaluation.benchmarks import load_benchmark
from srl.files import write_text
from srl.runs.folder import resolve_model
from srl.runs.hub import offline_without_network


@pytest.fixture
def online(monkeypatch):
    """As for users, whose environment does not say HF_HUB_OFFLINE; but the Hub has a name that nobody knows."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")


@pytest.mark.parametrize(
    ("load", "named"),
    [
        (lambda: load_chat(resolve_model("nobody/nothing")), "nobody/nothing: no tokenizer could be loaded"),
        (lambda: load_benchmark("gsm8k"), "could not be loaded .*--benchmark-file gsm8k=FILE"),
        (lambda: next(hub_rows(HubSource("nobody/rows", None, "train", None))), "nobody/rows: no such file"),
    ],
)
def test_what_is_not_in_the_cache_is_one_line_at_once(online, load, named, caplog):
    started = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=named) as error:
        load()
    assert "https://hub.invalid cannot be reached" in str(error.value)
    assert "\n" not in str(error.value)
    assert not [record for record in caplog.records if "Retry" in record.message]
    assert time.monotonic() - started < 10  # the first wait of a try is 1 s, of all 24 s


def test_a_proxy_or_a_known_name_leaves_the_libraries_alone(online, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    offline_without_network()
    monkeypatch.delenv("https_proxy")
    monkeypatch.setattr(constants, "ENDPOINT", "http://localhost:9")
    offline_without_network()
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.slow
def test_the_command_of_the_docs_sends_a_model(tmp_path):
    """Against a stand-in of the Hub, which takes every file as text of a commit and keeps it."""
    sent = {}

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(
                b"[" + b",".join(self.rfile.read(int(self.headers["content-length"])).splitlines()) + b"]"
            )
            here = f"http://127.0.0.1:{self.server.server_port}/me/first"
            answer = {"url": here, "id": "me/first", "name": "me/first", "errors": [], "warnings": []}
            if "/preupload/" in self.path:
                modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                answer = {"files": [{"path": file["path"], **modes} for file in body[0]["files"]]}
            if "/commit/" in self.path:
                files = [row["value"] for row in body if row["key"] == "file"]
                sent.update({file["path"]: base64.b64decode(file["content"]) for file in files})
                answer = {"commitUrl": f"{here}/commit/a", "commitOid": "a" * 40}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    model = shutil.copytree(resolve_model("tiny-base"), tmp_path / "model")
    (model / "training_args.bin").write_bytes(b"x")
    write_text(model / "README.md", "---\nlicense: apache-2.0\n---\n# A model\n")
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_TOKEN": "hf_x",
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-m", "huggingface_hub.cli.hf", "upload", "me/first", model]
        done = subprocess.run(
            [*command, "--exclude", "training_args.bin"],
            env=os.environ | environment | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert sent == {path.name: path.read_bytes() for path in model.iterdir() if path.suffix != ".bin"}
