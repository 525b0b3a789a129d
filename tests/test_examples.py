"""The examples that docs/integrations.md names run as written, but shorter."""

import json
import runpy
from difflib import SequenceMatcher
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
def test_the_script_with_srls_trainer(tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    after = runpy.run_path(str(EXAMPLES / "srl_trainer.py"))["main"](str(tmp_path), 2)
    assert after["eval_format_error_rate"] < 0.1
    assert f"{after['eval_reward']:.3f} after" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert list((tmp_path / "completions").glob("*.parquet"))


@pytest.mark.slow
def test_the_script_with_trls_trainer(tmp_path):
    rewards = runpy.run_path(str(EXAMPLES / "trl_script.py"))["main"](str(tmp_path), 2)
    assert len(rewards) == 2
    assert min(rewards) > 0.5


@pytest.mark.slow
def test_the_script_of_self_distillation(tmp_path, tiny_model, tiny_data):
    from transformers import AutoModelForCausalLM

    main = runpy.run_path(str(EXAMPLES / "self_distillation.py"))["main"]
    losses = main(str(tiny_data), str(tiny_model), str(tmp_path / "out"), 2)
    assert len(losses) == 2
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.slow
def test_the_notebook(capsys):
    """Its code in one namespace, as a kernel has it; docs/integrations.md has the way with a kernel."""
    cells = json.loads((EXAMPLES / "srl_in_python.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    namespace = {"__name__": "__main__"}
    for source in code:
        exec(compile(source, "srl_in_python.ipynb", "exec"), namespace)
    printed = capsys.readouterr().out
    expert = namespace["expert"]
    actions = [completion.partition("</think>")[2] for completion in namespace["completions"][:-1]]
    similar = [round(SequenceMatcher(None, action, expert, autojunk=False).ratio(), 2) for action in actions]
    assert str([*similar, -1.0]) in printed
    assert "→ 2. Divide both sides by 3: x = 4" in printed
    assert "kept" in printed
