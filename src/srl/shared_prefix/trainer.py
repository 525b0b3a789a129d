"""TRL's `GRPOTrainer`, with log-probs computed from packs.

TRL asks one method for the log-probs of a micro-batch: of the policy to train, of the old policy, of the
reference. Here it packs the rows, runs the model once (as often as TRL would, so any number of ranks and any
wrapper of the model agree) and returns what TRL expects. Everything else is TRL's.

A micro-batch is what can share, so TRL's rows are put in order within each optimizer step: rows that begin
alike go into the same micro-batches. Every step still trains on the rows that TRL's shuffle gave it, and its
gradient is the same; what is defined by micro-batch (`_micro_batches_matter`) is left in TRL's order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import RepeatSampler, get_config_model_id

from srl.errors import UserError
from srl.shared_prefix.attention import SHARED_PREFIX_ATTENTION, model_inputs
from srl.shared_prefix.batches import in_order, like_after_like, on_cpu, rows_of, to_device, unpadded
from srl.shared_prefix.cost import Cost, ModelSize, cheapest
from srl.shared_prefix.one_call import is_meant_for
from srl.shared_prefix.packing import Pack
from srl.shared_prefix.sampler import SamplingOptions, sample_completions
from srl.shared_prefix.support import why_no_sampling, why_no_training
from srl.shared_prefix.trial import problem_with_packs, problem_with_sampling
from srl.shared_prefix.weights import products_in, weights_in

logger = logging.getLogger(__name__)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CACHE_SHARE = 1 / 4
"""Of the free memory, what keys and values of `generate` may take: growing them copies them."""


@dataclass
class SharedPrefixConfig(GRPOConfig):
    """`GRPOConfig` with shared prefixes."""

    share_prefix: str = field(
        default="trajectory",
        metadata={
            "help": "Compute tokens that the rows of a micro-batch begin with alike once: `trajectory`, any common "
            "prefix, also across steps; `prompt`, among the samples of one prompt only; `off`, TRL's padded rows."
        },
    )
    step_order: str = field(
        default="shuffle",
        metadata={
            "help": "Which prompts make up a batch: `shuffle`, independent steps, as in the paper; `trajectory`, whole "
            "trajectories one after another (needs `trajectory_id` in the rows), which share most."
        },
    )

    sampling_dtype: str = field(
        default="autocast",
        metadata={
            "help": "What rollouts are computed in: `autocast`, like training; `bfloat16`, all weights converted for "
            "the time of sampling: faster on a GPU, and a little less like the policy that is trained."
        },
    )

    def __post_init__(self) -> None:
        """TRL's derived options, and a check of ours."""
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Raise UserError for options that cannot be."""
        for name, known in (
            ("share_prefix", ("trajectory", "prompt", "off")),
            ("step_order", ("shuffle", "trajectory")),
            ("sampling_dtype", ("autocast", "bfloat16")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r}")

    @classmethod
    def of(cls, args: GRPOConfig) -> Self:
        """TRL's options, as derived, with our defaults for the options that are ours."""
        if isinstance(args, cls):
            return args
        config = cls.__new__(cls)  # what `args` lacks stands in the class: the default
        config.__dict__.update(vars(args))
        config.check()
        return config


class TrajectorySampler(RepeatSampler):
    """TRL's order of rows, except that it is trajectories that are shuffled, each with its steps in order.

    A batch may begin and end within a trajectory.
    """

    def __init__(self, trajectory_ids: list[Any], **options: Any) -> None:
        super().__init__(trajectory_ids, **options)
        self.steps: dict[Any, list[int]] = {}
        for index, trajectory in enumerate(trajectory_ids):
            self.steps.setdefault(trajectory, []).append(index)

    def __iter__(self) -> Iterator[int]:
        trajectories = list(self.steps.values())
        if self.shuffle:
            trajectories = [trajectories[i] for i in torch.randperm(len(trajectories), generator=self.generator)]
        indices = [index for steps in trajectories for index in steps]
        for start in range(0, len(indices) - self.batch_size + 1, self.batch_size):
            for _ in range(self.repeat_count):
                for index in indices[start : start + self.batch_size]:
                    yield from [index] * self.mini_repeat_count


class SharedPrefixTrainer(GRPOTrainer):
    """`GRPOTrainer` that computes common prefixes once, where the model allows it and it saves time.

    Log-probs and gradients are those of padded rows, up to rounding. Where packs cannot be right (see
    `why_not`) it says so once and is a plain `GRPOTrainer`.
    """

    _config: type[SharedPrefixConfig] = SharedPrefixConfig
    # What TRL may ask for before `__init__` ends.
    _shares = False
    _host: Tensor | None = None

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *others: Any, **named: Any
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            # TRL computes in bfloat16 unless told otherwise, which transformers refuses without an accelerator.
            on_cpu = not torch.accelerator.is_available()
            output_dir = f"{name.split('/')[-1]}-{self._name}"
            args = self._config(output_dir, use_cpu=on_cpu, bf16=False if on_cpu else None)
        super().__init__(model, reward_funcs, self._config.of(args), *others, **named)
        self._tokens = np.zeros(2, dtype=np.int64)
        self._sampling_trial: str | None = None
        self._hosts: dict[int, Tensor] = {}
        if self.args.sampling_dtype != "autocast" and self._others_sample:
            raise UserError("sampling_dtype = bfloat16: not with vLLM, continuous batching, FSDP or ZeRO-3")
        self._shares = self.args.share_prefix != "off"
        if self._shares and (problem := self._why_not() or self._found_by_trying()):
            self._stop_sharing(problem)

    # --- where packs are right -----------------------------------------------------------------------

    def _why_not(self) -> str | None:
        """What in this model or configuration rules packs out; None if nothing does."""
        if self._is_vlm or self.aux_loss_enabled:
            return "images and router losses need whole rows"
        if self.args.torch_compile:
            return "torch_compile would compile anew for every batch"
        if self.args.use_transformers_continuous_batching:
            return "continuous batching sets the model's attention itself"
        if self.is_distributed_loading_by_transformers:
            return "its weights are spread over the devices already when it is loaded"
        return why_no_training(self.model)

    def _found_by_trying(self) -> str | None:
        """What is wrong with packs on a tiny example; None if nothing is, and the models are ready for packs then.

        Now, as long as no autocast, FSDP or DeepSpeed is wrapped around the model.
        """
        self._model_size = ModelSize.of(self.model.config.get_text_config())
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(SHARED_PREFIX_ATTENTION)
        if problem := self._on_trial(problem_with_packs):
            self.model.set_attn_implementation(before)
            return problem
        if self.ref_model is not None:
            self.ref_model.set_attn_implementation(SHARED_PREFIX_ATTENTION)
        if not self._others_sample and why_no_sampling(self.model) is None:
            self._sampling_trial = self._on_trial(problem_with_sampling)
        return None

    def _on_trial(self, trial: Callable[[Any], str | None]) -> str | None:
        """What a trial finds on the main process: before training starts, others may hold no weights (FSDP)."""
        with self._dist.gather_params(list(self.model.parameters())), self.accelerator.autocast():
            problem = trial(self.model) if self.accelerator.is_main_process else None
        return broadcast_object_list([problem])[0]

    def _stop_sharing(self, problem: str) -> None:
        self._shares = False
        if self.accelerator.is_main_process:
            logger.warning(f"share_prefix = {self.args.share_prefix}: computing whole rows instead, because {problem}")

    # --- log-probs -----------------------------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's hook: (B, C) log-probs and entropies of the last C tokens of each row, 0 where masked."""
        if not self._shares:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **others
            )
        size, kind = batch_size or len(input_ids), input_ids.device.type
        one_call = is_meant_for(kind, self._computes_in)
        host = on_cpu(input_ids, attention_mask) if self._host is None else self._host
        parts = []
        for ids_BT, mask_BT, (host_ids_BT, host_mask_BT) in zip(
            input_ids.split(size), attention_mask.split(size), host.split(size, dim=1), strict=True
        ):
            rows, lengths = unpadded(host_ids_BT, host_mask_BT, logits_to_keep)
            packs, cost = cheapest(rows, lengths, self.args.share_prefix, self._model_size, kind, one_call)
            self._count_tokens(cost)
            saved = cost.raw_tokens - cost.unique_tokens - len(rows)  # a row's last token is left out in any case
            padding = ids_BT.numel() - cost.raw_tokens
            if packs and (saved > 0 or padding > 0.02 * cost.raw_tokens):
                parts.append(self._run_pack(model, packs[0], host_mask_BT[:, -logits_to_keep:], compute_entropy))
            else:  # nothing to gain; or every completion is masked, and yet each rank must run the model
                parts.append(
                    super()._get_per_token_logps_and_entropies(
                        model, ids_BT, mask_BT, logits_to_keep, compute_entropy=compute_entropy
                    )[:2]
                )
        logps, entropies = zip(*parts, strict=True)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _run_pack(
        self, model: nn.Module, one: Pack, mask_BC: Tensor, compute_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probs and entropies of a pack, put back where the rows have their completions; the mask is on the CPU."""
        device = self.accelerator.device
        columns = [row.nonzero()[0] for row in mask_BC.numpy()]
        row_N = np.concatenate([np.full(len(places), i) for i, places in zip(one.rows, one.places, strict=True)])
        column_N = np.concatenate([columns[i][-len(p) :] for i, p in zip(one.rows, one.places, strict=True)])
        place_N = np.concatenate(one.places)
        row_N, column_N, place_N = (to_device(index, device) for index in (row_N, column_N, place_N))
        with self.accelerator.autocast():
            outputs = model(
                **model_inputs(one, device),
                shift_labels=to_device(one.labels_T, device)[None],
                fused_lm_head=True,
            )

        def unpacked(values_1T: Tensor) -> Tensor:
            return values_1T.new_zeros(mask_BC.shape).index_put((row_N, column_N), values_1T[0, place_N])

        return unpacked(outputs.log_probs), unpacked(outputs.entropy) if compute_entropy else None

    def _count_tokens(self, cost: Cost) -> None:
        """Log what an optimizer step computes, over all processes: gathered once per step, as that waits for them."""
        if not (self.model.training and torch.is_grad_enabled()):
            return
        self._tokens += cost.unique_tokens, cost.raw_tokens
        if self.accelerator.sync_gradients:
            counts = torch.from_numpy(self._tokens).to(self.accelerator.device)
            unique, raw = self.accelerator.reduce(counts, reduction="sum").tolist()
            metrics = self._metrics["train"]
            metrics["tokens/unique"].append(unique)
            metrics["tokens/raw"].append(raw)
            metrics["sharing_ratio"].append(raw / max(1, unique))
            self._tokens = np.zeros(2, dtype=np.int64)

    # --- sampling ------------------------------------------------------------------------------------

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """TRL's hook: the completions of these prompts."""
        trl = super()._generate_single_turn
        if self.use_vllm and self._shares:
            return like_after_like(lambda prompts: trl(prompts, images, multimodal_fields, *args, **kwargs), prompt_ids)
        with self._weights_converted_once():
            if self._samples_elsewhere() or self._generate_is_faster(prompt_ids):
                return trl(prompt_ids, images, multimodal_fields, *args, **kwargs)
            completion_ids, _ = self._sample(prompt_ids)
            return completion_ids, None

    @contextmanager
    def _weights_converted_once(self) -> Iterator[None]:
        """The weights of products in autocast's type already, which it would convert at every token; or all weights."""
        with ExitStack() as stack:
            if self.accelerator.mixed_precision in AUTOCAST and not self._others_sample:
                stack.enter_context(self.accelerator.autocast())
                stack.enter_context(products_in(AUTOCAST[self.accelerator.mixed_precision], self.model))
            if self.args.sampling_dtype == "bfloat16":
                stack.enter_context(weights_in(torch.bfloat16, self.model))
            yield

    def _generate_is_faster(self, prompt_ids: list[list[int]]) -> bool:
        """On a GPU it is, wherever there is room for keys and values of every row: measured in docs/method.md."""
        device = self.accelerator.device
        if device.type != "cuda":
            return False
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        length = max(map(len, prompt_ids)) + self.max_completion_length
        needed = len(prompt_ids) * length * self._model_size.cache_numbers * self._computes_in.itemsize
        return needed < CACHE_SHARE * (free - torch.cuda.memory_allocated(device))

    @property
    def _computes_in(self) -> torch.dtype:
        return AUTOCAST.get(self.accelerator.mixed_precision, self.model.dtype)

    def _sample(self, prompt_ids: list[list[int]]) -> tuple[list[list[int]], list[list[float]]]:
        """A completion per prompt over shared keys, and its log-probs."""
        with self._policy() as policy:
            options = SamplingOptions.from_generation_config(self.generation_config)
            return sample_completions(policy, prompt_ids, options)

    def _policy(self) -> AbstractContextManager[Any]:
        """The model without what training wraps around it."""
        checkpointing = self.args.gradient_checkpointing_kwargs
        return unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing
        )

    @property
    def _others_sample(self) -> bool:
        """Whether the configuration leaves sampling to vLLM or to transformers' `generate`."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return True
        # The ranks of a sharded model would have to take equally many steps.
        return bool(self.is_fsdp_enabled or self._dist.is_zero3)

    def _samples_elsewhere(self) -> bool:
        """Whether completions are TRL's affair."""
        return bool(not self._shares or self._others_sample or self._sampling_problem)

    @cached_property
    def _sampling_problem(self) -> str | None:
        """What rules samples over shared keys out: known beforehand, or found by trying."""
        problem = why_no_sampling(self.model, self.generation_config) or self._sampling_trial
        if problem and self.accelerator.is_main_process:
            logger.warning(f"share_prefix = {self.args.share_prefix}: sampling by `generate`, because {problem}")
        return problem

    # --- which rows come together --------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        """TRL's hook: the order of the prompts."""
        sampler = super()._get_train_sampler(dataset)
        if self.args.step_order == "shuffle":
            return sampler
        if "trajectory_id" not in sampler.data_source.column_names:
            raise UserError("step_order = trajectory: expected a column `trajectory_id` in the rows, found none")
        return TrajectorySampler(
            list(sampler.data_source["trajectory_id"]),
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's hook: the micro-batch to train on; those of an optimizer step are put in order when they are made."""
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        made, window = self._buffered_inputs, self.args.gradient_accumulation_steps
        if made is before or not self._shares:
            return inputs
        if not self._micro_batches_matter():
            for start in range(0, len(made), window):
                made[start : start + window] = in_order(made[start : start + window])
        self._hosts = {id(batch): on_cpu(*rows_of(batch)) for batch in made}
        return made[self._step % len(made)]

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """TRL's hook: the loss of a micro-batch, whose rows were brought to the CPU when it was made.

        Now they would wait for the backward pass of the one before; as it is, packing goes on meanwhile.
        """
        self._host = self._hosts.get(id(inputs))
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._host = None

    def _micro_batches_matter(self) -> bool:
        """Whether the gradient depends on which rows of an optimizer step share a micro-batch."""
        cut_by_steps = self.args.steps_per_generation > self.args.gradient_accumulation_steps and (
            self.args.steps_per_generation % self.args.gradient_accumulation_steps
        )
        over_all_tokens = self.loss_type == "bnpo" or self.top_entropy_quantile < 1 or self._entropy_bonus_enabled
        return bool(cut_by_steps or over_all_tokens)
