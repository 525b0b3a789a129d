#!/usr/bin/env bash
# prepare.sh GSM8K OUT: the data of this experiment, from a folder with GSM8K's train.jsonl and test.jsonl.
set -euo pipefail
gsm8k=$1 out=$2
step="First think between <think> and </think>. After it write only the next step of the solution, and stop."
answer="Solve the problem step by step. You may think between <think> and </think>. End with the final answer in \\boxed{}."

mkdir -p "$out"
head -800 "$gsm8k/train.jsonl" > "$out/warm-up.jsonl"            # 800 problems teach the format
sed -n '801,7273p' "$gsm8k/train.jsonl" > "$out/train.jsonl"     # 6,473 are trained on, 600 of them on a CPU
head -600 "$out/train.jsonl" > "$out/train-600.jsonl"
tail -200 "$gsm8k/train.jsonl" > "$out/validation.jsonl"         # 200 choose checkpoints and rates, 40 on a CPU
head -40 "$out/validation.jsonl" > "$out/validation-40.jsonl"
cp "$gsm8k/test.jsonl" "$out/test.jsonl"                         # 1,319 are asked once, 100 on a CPU
head -100 "$out/test.jsonl" > "$out/test-100.jsonl"

for name in warm-up train train-600; do
    annotations=drop
    if [ $name = warm-up ]; then annotations=thought; fi
    srl steps "$out/$name.jsonl" --annotations $annotations --targets all --hold-out 0 --exclude "$out/test.jsonl" \
        --system-prompt "$step" --answer-system-prompt "$answer" --out "$out/$name"
done
