"""Broken model folders: each is one line that says what is wrong, and none runs code of its own."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from srl.chat.tokenizer import load_chat
from srl.errors import UserError
from srl.runs.model import load_model


def configure(name="config.json", **changed):
    def change(folder):
        config = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**config, **changed}))

    return change


def weights(change):
    def rewrite(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def cut(name, share=0.5):
    def change(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def own_code(folder):
    (folder / "theirs.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    code = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model", "AutoTokenizer": "theirs.Model"}
    configure(model_type="theirs", auto_map=code)(folder)


NORM = "model.norm.weight"
BROKEN = {
    "truncated weights": (cut("model.safetensors"), "not fully covered"),
    "empty weights": (cut("model.safetensors", 0), "no model could be loaded"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "a weight is missing": (weights(lambda tensors: tensors.pop(NORM)), f"no weights for {NORM}"),
    "mismatched shape": (weights(lambda t: t.update({NORM: t[NORM][:-1].clone()})), f"{NORM} has the shape"),
    "NaN": (weights(lambda tensors: tensors[NORM][3:4].fill_(torch.nan)), f"{NORM} holds NaN"),
    "infinite": (weights(lambda tensors: tensors[NORM][3:4].fill_(-torch.inf)), f"{NORM} holds NaN or infinite"),
    "unknown type": (configure(model_type="nonsense"), "nonsense"),
    "no causal model": (configure(model_type="bert"), "no causal language model"),
    "truncated config": (cut("config.json"), "not a valid JSON file"),
    "config of no sense": (configure(num_attention_heads=0), "ZeroDivisionError"),
    "truncated tokenizer": (cut("tokenizer.json"), "no tokenizer could be loaded: "),
    "own code": (own_code, "code of its own"),
    "end beyond the vocabulary": (configure("generation_config.json", eos_token_id=[3, 99_999]), "token id 99999"),
}


def load(folder):
    return load_model(str(folder), torch.float32, load_chat(str(folder)).tokenizer)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_folder_is_one_line(tiny_model, tmp_path, name, capfd):
    change, expected = BROKEN[name]
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    load(folder)
    change(folder)
    with pytest.raises(UserError, match=expected) as found:
        load(folder)
    message = str(found.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    assert len(message) < 600
    assert "Traceback" not in capfd.readouterr().err
    assert not (folder / "ran").exists()


def test_a_tokenizer_of_a_larger_model_is_refused(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = tensors[name][:20].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    configure(vocab_size=20)(folder)
    with pytest.raises(UserError, match="beyond the model's vocabulary of 20"):
        load(folder)


def test_an_added_token_that_nothing_uses_may_lie_beyond_the_vocabulary(tiny_model, tmp_path):
    tokenizer = load_chat(str(tiny_model)).tokenizer
    model = load_model(str(tiny_model), torch.float32)
    missing = model.config.vocab_size - len(tokenizer) + 1
    tokenizer.add_tokens([f"<image{index}>" for index in range(max(1, missing))])
    assert len(tokenizer) > model.config.vocab_size
    load_model(str(tiny_model), torch.float32, tokenizer)
