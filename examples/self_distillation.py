"""Self-distillation from expert solutions, on the rows of `srl steps`: a neighbour of SRL that TRL has.

    python examples/self_distillation.py steps/ HuggingFaceTB/SmolLM2-135M-Instruct runs/sdft

The student answers a problem; the teacher is the same model with the expert's solution in its prompt, and the student's
tokens move towards what the teacher would have said (SDFT, arXiv 2601.19897; OPSD, arXiv 2601.18734). So the model must
be able to use a solution that it is shown. `srl evaluate runs/sdft` then asks the trained model.
"""

from __future__ import annotations

import sys
from pathlib import Path

from datasets import Dataset
from trl.experimental.sdft import SDFTConfig, SDFTTrainer

from srl.data.folder import rows_file
from srl.files import read_rows
from srl.runs.folder import resolve_model

TEACHER_PROMPT = "{prompt}\n\nHere is a correct solution. Answer in your own words.\n\n{privileged_context}"


def main(data: str, model: str, out: str, max_steps: int = 100) -> list[float]:
    """Train, save the model to `out`, and return the loss of each step."""
    problems = (row.value for row in read_rows(rows_file(Path(data), "train.problems")))
    rows = [{"prompt": row["prompt"], "privileged_context": row["solution"]} for row in problems if row["solution"]]
    trainer = SDFTTrainer(
        model=resolve_model(model),
        train_dataset=Dataset.from_list(rows),
        args=SDFTConfig(
            output_dir=out,
            max_steps=max_steps,
            learning_rate=1e-5,
            num_generations=1,
            per_device_train_batch_size=8,
            max_prompt_length=1024,
            max_completion_length=256,
            teacher_prompt_template=TEACHER_PROMPT,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
            bf16=False,  # on a GPU leave these three out
            gradient_checkpointing=False,
            use_cpu=True,
        ),
    )
    trainer.train()
    trainer.save_model(out)
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    print(f"loss: {losses[0]:.3f} in the first step, {losses[-1]:.3f} in the last")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:5]))
