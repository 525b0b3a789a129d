"""`srl doctor`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Doctor:
    """Say what is installed here: versions, similarity implementation, device. For bug reports."""

    def run(self) -> None:
        """Print one fact per line."""
        import platform
        from importlib import metadata, util

        import torch

        from srl.rewards.similarity import implementation
        from srl.runs.environment import versions

        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        facts = {
            "python": platform.python_version(),
            **versions(),
            "vllm": metadata.version("vllm") if util.find_spec("vllm") else "not installed",
            "similarity": implementation(),
            "device": f"{device} × {torch.accelerator.device_count()}" if device else "cpu",
        }
        for name, fact in facts.items():
            print(f"{name:<13} {fact}")
