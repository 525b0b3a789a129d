"""What a server may send, and how it may fail, before all who ask one."""

import asyncio
import itertools
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from chat_server import completion, refusal, serving

import srl.engines.asking
import srl.engines.endpoint
from srl.chat.prompts import parse_completion
from srl.engines.asking import ask_all
from srl.engines.endpoint import Endpoint, PromptTooLong
from srl.errors import UserError

PROMPT = ({"role": "user", "content": "2 + 2?"},)


def ask(url, n=1, request_seconds=5.0, concurrency=4):
    """The replies of a server to `n` requests, and its endpoint."""
    endpoint, replies = Endpoint(url, "tiny", 16, request_seconds), []

    async def one(index):
        replies.append(await endpoint.complete(PROMPT, index, 0.0))

    asyncio.run(ask_all(endpoint, range(n), one, concurrency))
    return replies, endpoint


def with_message(message, **rest):
    body = completion("")
    body["choices"][0] |= {"message": message} | rest
    return body


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(srl.engines.endpoint, "FIRST_WAIT_SECONDS", 0.001)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "2 + 2 "}, {"type": "text", "text": "= 4"}], "2 + 2 = 4"),
        ([{"type": "reasoning", "summary": []}, {"type": "text", "text": "4"}], "4"),
        ([{"text": "4"}], "4"),
        (["four", "!"], "four!"),
        ([], ""),
        (None, ""),
        ("4", "4"),
    ],
)
def test_content_as_text_or_in_parts(content, text):
    with serving(lambda _: with_message({"role": "assistant", "content": content})) as server:
        (reply,), endpoint = ask(server.url)
    assert reply.text == text
    assert not endpoint.failures


@pytest.mark.parametrize(
    ("message", "text", "fault"),
    [
        ({"content": "2. 4", "reasoning_content": "Two and two."}, "<think>Two and two.</think>\n2. 4", None),
        ({"content": "2. 4", "reasoning": "Two."}, "<think>Two.</think>\n2. 4", None),
        ({"content": "2. 4", "reasoning_content": None, "reasoning": "Two."}, "<think>Two.</think>\n2. 4", None),
        ({"content": [{"type": "thinking", "thinking": "Two."}, {"text": "2. 4"}]}, "<think>Two.</think>\n2. 4", None),
        ({"content": None, "reasoning_content": "Two and"}, "<think>Two and", "no </think>"),
        ({"content": "", "reasoning": "Two."}, "<think>Two.</think>\n", "empty action"),
        ({"content": "<think>Two.</think>2. 4", "reasoning": ""}, "<think>Two.</think>2. 4", None),
        ({"content": "<think>Two.</think>2. 4", "reasoning": "Hm"}, None, "several <think>"),
        ({"content": "Two.</think>\n2. 4"}, "<think>Two.</think>\n2. 4", None),  # the prompt opened the thought
        ({"content": "Two.</think>\n2. </think>4"}, None, "several </think>"),
        ({"content": "2. 4", "reasoning_content": {"a": 1}}, "2. 4", "no <think>"),
        ({"content": "2. 4", "reasoning_content": ""}, "2. 4", "no <think>"),
    ],
)
def test_a_thought_that_the_server_has_split_off_is_part_of_the_completion(message, text, fault):
    with serving(lambda _: with_message({"role": "assistant", **message})) as server:
        (reply,), _ = ask(server.url)
    assert text in (None, reply.text)
    assert parse_completion(reply.text).format_error == fault


def test_arguments_of_the_template_go_to_servers_that_hand_them_on():
    def sent(owner, template_kwargs):
        with serving(lambda _: completion("4"), owner=owner) as server:
            endpoint = Endpoint(server.url, "tiny", 16, 5.0, template_kwargs)

            async def one(_):
                await endpoint.complete(PROMPT, 0, 0.0)

            asyncio.run(ask_all(endpoint, [0], one, 1))
            return server.requests[0]

    for owner in ("vllm", "sglang", "llamacpp"):
        assert sent(owner, {"enable_thinking": True})["chat_template_kwargs"] == {"enable_thinking": True}
        assert "chat_template_kwargs" not in sent(owner, {})
    assert sent("vllm", {})["skip_special_tokens"] is False
    assert "skip_special_tokens" not in sent("me", {})
    with pytest.raises(UserError, match="template-kwargs reach the template through vLLM"):
        sent("me", {"enable_thinking": True})


WRONG = [
    with_message({"role": "assistant", "content": 4}),
    with_message({"role": "assistant", "content": {"text": "4"}}),
    with_message({"role": "assistant", "content": [4]}),
    with_message({"role": "assistant", "content": [{"type": "text", "text": 4}]}),
    with_message("4"),
    with_message(None),
    with_message({"role": "assistant", "content": "4"}, finish_reason=None),
    with_message({"role": "assistant", "content": "4"}, finish_reason=7),
    completion("4") | {"choices": "4"},
    completion("4") | {"choices": {"0": "4"}},
    completion("4") | {"choices": None},
    completion("4") | {"choices": ["4"]},
    ["a", "list"],
    "text",
    [17],
    {"choices": [{"message": {"content": "x" * 10_000}, "finish_reason": ["stop"]}]},
]


@pytest.mark.parametrize("body", WRONG)
def test_wrong_types_are_one_line_and_counted(body):
    with serving(lambda _: body) as server:
        with pytest.raises(UserError, match=r"failed 6 times, the last time with: .*--resume") as error:
            ask(server.url)
        assert len(str(error.value)) < 400
        assert "\n" not in str(error.value)
        broken = itertools.chain([body, body], itertools.repeat(completion("4")))
        server.reply = lambda _: next(broken)
        replies, endpoint = ask(server.url)
    assert [reply.text for reply in replies] == ["4"]
    assert endpoint.failure_lines() == ["tried again: 2 × not a chat completion"]


@pytest.mark.parametrize("usage", [None, "3", {"completion_tokens": "3"}, {"completion_tokens": -1}, [3], {}])
def test_a_count_of_tokens_that_is_none_is_not_known(usage):
    with serving(lambda _: completion("4") | {"usage": usage}) as server:
        assert ask(server.url)[0][0].tokens is None


def test_failures_are_counted_by_kind(capsys):
    failing = itertools.chain([503, 429, 503, b"{", {"error": "?"}], itertools.repeat(completion("4")))
    with serving(lambda _: next(failing)) as server:
        replies, _ = ask(server.url, n=3, concurrency=1)
    assert len(replies) == 3
    said = capsys.readouterr().out
    assert "tried again: 2 × HTTP 503, 1 × HTTP 429" in said
    assert "1 × not a chat completion" in said
    assert said.count("\n") == 1


@contextmanager
def silent_server(answer=b""):
    """Takes connections, reads nothing, sends at most the start of an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = []

        def take():
            while True:
                try:
                    taken.append(server.accept()[0])
                    taken[-1].sendall(answer)
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"])
def test_a_server_that_hangs_at_the_first_request_is_named(monkeypatch, answer):
    assert srl.engines.endpoint.CHECK_SECONDS < 30
    monkeypatch.setattr(srl.engines.endpoint, "CHECK_SECONDS", 0.5)
    start = time.monotonic()
    with silent_server(answer) as url, pytest.raises(UserError, match=r"has not listed its models within 0\.5 s"):
        ask(url)
    assert time.monotonic() - start < 10


def test_a_server_that_hangs_at_the_first_completion_is_named_and_given_up(monkeypatch, capsys):
    assert srl.engines.asking.FIRST_REPLY_SECONDS < 30
    monkeypatch.setattr(srl.engines.asking, "FIRST_REPLY_SECONDS", 0.2)
    let_go = threading.Event()
    with serving(lambda _: let_go.wait(20) and 500) as server:
        with pytest.raises(
            UserError, match=r"failed 2 times.*no completion within 0.6 s; a longer limit: --request-sec"
        ):
            ask(server.url, request_seconds=0.6)
        let_go.set()
    said = capsys.readouterr().out
    assert f"{server.url}: no completion yet after 0.2 s" in said
    assert "no completion in time" in said


def test_the_limit_is_of_the_whole_request():
    """A server that sends a byte now and then is no faster than one that sends none."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            connection = server.accept()[0]
            connection.recv(100_000)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n")
            try:
                while True:
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass

        for _ in range(2):
            threading.Thread(target=drip, daemon=True).start()
        endpoint = Endpoint(f"http://127.0.0.1:{server.getsockname()[1]}/v1", "tiny", 16, request_seconds=0.5)
        with pytest.raises(UserError, match="no completion within"):
            asyncio.run(endpoint.complete(PROMPT, 0, 0.0))


@pytest.mark.parametrize(
    ("message", "too_long"),
    [
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.", True),  # vLLM
        ("The decoder prompt (length 5000) is longer than the maximum model length of 4096.", True),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", True),  # SGLang
        ("the request exceeds the available context size, try increasing it", True),  # llama.cpp
        ("Your input exceeds the context window of this model.", True),  # OpenAI
        ("`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4090 `inputs` tokens.", True),  # TGI
        ("prompt is too long: 5000 tokens > 4096 maximum", True),  # Anthropic
        ("max_tokens is too large: 5000", False),
        ("unknown field `seed`", False),
    ],
)
def test_a_refusal_for_length_is_told_from_others(message, too_long):
    with (
        serving(lambda _: refusal(message)) as server,
        pytest.raises(UserError, match="refused the request") as refused,
    ):
        ask(server.url)
    assert isinstance(refused.value, PromptTooLong) == too_long


def test_a_server_without_room_for_a_completion_is_told_before_it_is_asked():
    with serving(lambda _: completion("4"), max_model_len=16) as server:
        with pytest.raises(UserError, match=r"takes 16 tokens of prompt and completion together, .* may have 16"):
            ask(server.url)
        assert not server.requests
    with serving(lambda _: completion("4"), max_model_len=17) as server:
        assert ask(server.url)[0][0].text == "4"


def test_a_certificate_that_is_not_trusted_is_said(tmp_path, monkeypatch):
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificate, is not installed")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*made, "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(lambda _: completion("4")) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(UserError, match=r"certificate or TLS is not accepted \(.*; name the file.*SSL_CERT_FILE"):
            ask(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert ask(url)[0][0].text == "4"
    with serving(lambda _: completion("4")) as server, pytest.raises(UserError, match="certificate or TLS"):
        ask(server.url.replace("http:", "https:"))


def test_a_refused_key_and_no_concurrency_are_one_line():
    with serving(lambda _: 401) as server:
        with pytest.raises(UserError, match="refused the request"):
            ask(server.url)
        with pytest.raises(UserError, match="--concurrency 0: expected 1 or more"):
            ask(server.url, concurrency=0)
