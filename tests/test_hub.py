"""The Hub without a network: what is not in the cache is one line at once, without tries that last half a minute."""

import logging
import time

import datasets.config
import pytest
from huggingface_hub import constants

from srl.chat.tokenizer import load_chat
from srl.data.inputs import HubSource, hub_rows
from srl.errors import UserError
from srl.evaluation.benchmarks import load_benchmark
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
