"""verl 0.9.1 on CPUs, for tests: a platform, a process group with gloo alone, and a rollout engine around `generate`.

verl imports this module in each of its processes (`VERL_USE_EXTERNAL_MODULES=verl_on_cpu`, `VERL_PLATFORM=cpu`). Its
own extension points carry all but the process group: for that it would ask torch for "cpu:gloo,cpu:gloo".
"""

import asyncio
import os
import types
from contextlib import contextmanager
from functools import partial

import ray
import torch
import verl.utils.distributed
from transformers import AutoModelForCausalLM, GenerationConfig
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.workers.rollout import base, replica


def _nothing(*_, **__):
    return None


def _device_module():
    """What torch.cuda answers, for a device without memory of its own and without streams."""
    module = types.ModuleType("cpu_as_device")
    for name in ("empty_cache", "synchronize", "set_device", "reset_peak_memory_stats", "ipc_collect"):
        setattr(module, name, _nothing)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(module, name, lambda *_: 0)
    module.mem_get_info = lambda *_: (1 << 30, 1 << 30)
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.get_device_name = lambda *_: "cpu"
    module.manual_seed = module.manual_seed_all = _nothing  # torch.manual_seed seeds this device
    module.get_rng_state, module.set_rng_state = torch.get_rng_state, torch.set_rng_state
    return module


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """Ray counts its workers as GPUs, of which `ray_init.num_gpus` says that there are some."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _device_module()

    def is_available(self):
        return True

    def current_device(self):
        return "cpu"

    def device_count(self):
        return 1

    def get_device_capability(self, device_index=0):
        return None, None

    def communication_backend_name(self):
        return "gloo"

    def visible_devices_envvar(self):
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self):
        return "GPU"

    def ray_noset_envvars(self):
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self):
        return False

    @contextmanager
    def nvtx_range(self, msg):
        yield

    set_device = synchronize = manual_seed = manual_seed_all = set_allocator_settings = empty_cache = _nothing
    profiler_start = profiler_stop = cudart = _nothing


verl.utils.distributed.initialize_global_process_group_ray = partial(
    verl.utils.distributed.initialize_global_process_group_ray, backend="gloo"
)


def server_name(rank):
    return f"generate_on_cpu_{rank}"


class GenerateServer:
    """Samples with transformers' `generate`, one prompt after the other."""

    def __init__(self, model_path, generation_config, response_length):
        self.model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
        self.ends = GenerationConfig.from_pretrained(generation_config).eos_token_id
        self.response_length = response_length
        self.global_steps = None
        self.one_at_a_time = asyncio.Lock()

    async def generate(self, prompt_ids, sampling_params, **_):
        async with self.one_at_a_time:
            token_ids, log_probs = await asyncio.to_thread(self._sample, prompt_ids, sampling_params)
        extra = {"global_steps": self.global_steps}
        return replica.TokenOutput(
            token_ids=token_ids, log_probs=log_probs, stop_reason="completed", extra_fields=extra
        )

    @torch.no_grad()
    def _sample(self, prompt_ids, sampling_params):
        ids = torch.tensor([prompt_ids])
        temperature = sampling_params["temperature"]
        done = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_p=sampling_params["top_p"],
            top_k=max(sampling_params["top_k"], 0),
            max_new_tokens=self.response_length,
            eos_token_id=self.ends,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        token_ids = done.sequences[0, len(prompt_ids) :]
        logits = torch.stack(done.logits)[:, 0] / (temperature or 1)
        log_probs = logits.log_softmax(dim=-1).gather(1, token_ids[:, None])[:, 0]
        return token_ids.tolist(), log_probs.tolist()

    async def load_weights(self, state_dict, global_steps):
        missing, unexpected = self.model.load_state_dict(state_dict, strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= set(self.model.all_tied_weights_keys), missing
        self.global_steps = global_steps

    async def wake_up(self):
        """Nothing sleeps here."""

    sleep = abort_all_requests = resume_generation = clear_kv_cache = wake_up


class GenerateReplica(replica.RolloutReplica):
    """One server for one worker of the trainer."""

    async def launch_servers(self):
        server = ray.remote(num_cpus=0, max_concurrency=self.max_concurrency)(GenerateServer)
        self._server_handle = server.options(name=server_name(self.replica_rank)).remote(
            self.model_config["path"],
            self.config.engine_kwargs["vllm"]["generation_config"],
            self.config.response_length,
        )
        self._server_address = server_name(self.replica_rank)
        self.servers = [self._server_handle]


class WeightsToServer(base.BaseRollout):
    """In the trainer's worker: hands its weights to the server of the same rank."""

    async def resume(self, tags):
        """Nothing was released."""

    async def release(self):
        """The server keeps its weights."""

    async def update_weights(self, weights, wire_format="named_tensors", global_steps=None, **_):
        assert wire_format == "named_tensors"
        state_dict = {name: tensor.detach().float().cpu().clone() for name, tensor in weights}
        server = ray.get_actor(server_name(torch.distributed.get_rank()))
        await server.load_weights.remote(state_dict, global_steps)


replica.RolloutReplicaRegistry.register("generate", lambda: GenerateReplica)
base._ROLLOUT_REGISTRY["generate", "async"] = f"{__name__}.WeightsToServer"
# verl's FSDP engine is registered under this name only; it runs on a CPU as well.
os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")

if counted := os.environ.get("SRL_COUNT_REWARDS"):
    from srl.verl.scoring import Scorer

    score = Scorer.__call__

    def count_and_score(self, completion_ids, row):
        with open(counted, "a") as calls:
            calls.write("1\n")
        return score(self, completion_ids, row)

    Scorer.__call__ = count_and_score
