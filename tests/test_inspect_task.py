"""The Inspect task judges as `srl evaluate` does."""

import json

import pytest
from chat_server import completion, serving

pytest.importorskip("inspect_ai", reason="inspect_ai is not installed here: pip install 'srl[inspect]'")


def test_the_task_asks_our_prompt_and_judges_with_our_judge(tmp_path, monkeypatch):
    from inspect_ai import eval as inspect_eval

    from srl.chat.prompts import ANSWER_SYSTEM_PROMPT
    from srl.evaluation.inspect_task import benchmark

    rows = [
        {"problem": "half", "answer": "1/2"},
        {"problem": "big", "answer": "4.5e33"},
        {"problem": "cut", "answer": 3},
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.toml").write_text('title = "B"\nfile = "b.jsonl"\n')
    replies = {
        "half": completion(r"\boxed{0.5}", tokens=9),
        "big": completion(r"\boxed{4.5 \times 10^{33}}"),
        "cut": completion(r"\boxed{3}", "length"),
    }
    with serving(lambda request: replies[request["messages"][-1]["content"]]) as server:
        monkeypatch.setenv("LOCAL_API_KEY", "none")
        (log,) = inspect_eval(
            benchmark(str(tmp_path / "b.toml")),
            model="openai-api/local/tiny",
            model_base_url=server.url,
            log_dir=str(tmp_path / "logs"),
            display="none",
        )
        assert {r["messages"][0]["content"] for r in server.requests} == {ANSWER_SYSTEM_PROMPT}
    assert log.status == "success", log.error
    assert {sample.id: sample.scores["equality"].value for sample in log.samples} == {"0": "C", "1": "C", "2": "I"}
