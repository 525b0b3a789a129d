"""Run by test_two_ranks under `torchrun`: whole trajectories under FSDP2, with and without shared prefixes and LoRA.

accelerate shards on accelerators only. FSDP2 itself runs on CPUs too, so here accelerate is told that this is its case.
"""

import gc
import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from trainers import train_log, trainer_on_steps

begin = AcceleratorState.__init__
plugins = []


def with_fsdp(self, *arguments, fsdp_plugin=None, **named):
    begin(self, *arguments, fsdp_plugin=fsdp_plugin, **named)
    plugins.extend([fsdp_plugin] if fsdp_plugin else [])
    if plugins:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugins[-1]


def main(model, folder):
    AcceleratorState.__init__ = with_fsdp
    found = {}
    for sharded in (False, True):  # what is sharded once stays so
        for lora in (False, True):
            for share_prefix in ("off", "trajectory"):
                changed = {"step_order": "trajectory", "share_prefix": share_prefix, "use_cpu": True, "fsdp": sharded}
                trainer = trainer_on_steps(model, folder, lora=lora, **changed)
                log = train_log(trainer, "loss", "grad_norm", "tokens/unique")
                kinds = {type(parameter).__name__ for parameter in trainer.model.parameters()}
                trainer.save_model(str(folder / "model"))
                torch.distributed.barrier()
                written = folder / "model" / f"{'adapter_model' if lora else 'model'}.safetensors"
                weights = {name: weight.double().abs().sum().item() for name, weight in load_file(written).items()}
                found[f"{sharded}, {lora}, {share_prefix}"] = {"log": log, "kinds": sorted(kinds), "weights": weights}
                torch.distributed.barrier()
    if os.environ["RANK"] == "0":
        (folder / "found.json").write_text(json.dumps(found))


main(sys.argv[1], Path(sys.argv[2]))
gc.collect()
torch.distributed.destroy_process_group()  # before Python ends, or gloo's threads abort it
