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
tail -200 "$gsm8k/train.jsonl" > "$out/validation.jsonl"         # 200 choose checkpoints and rates, 20 on a CPU
head -20 "$out/validation.jsonl" > "$out/validation-20.jsonl"
cp "$gsm8k/test.jsonl" "$out/test.jsonl"                         # 1,319 are asked once, 50 on a CPU
head -50 "$out/test.jsonl" > "$out/test-50.jsonl"

options=(--targets all --hold-out 0 --system-prompt "$step" --answer-system-prompt "$answer")
srl steps "$out/warm-up.jsonl" --annotations thought --exclude "$out/test.jsonl" "${options[@]}" --out "$out/warm-up"
for name in train train-600; do
    srl steps "$out/$name.jsonl" --annotations drop --exclude "$out/test.jsonl" "${options[@]}" --out "$out/$name"
done
for name in test test-50; do                                     # the experts' steps by which arms are judged
    srl steps "$out/$name.jsonl" --annotations drop "${options[@]}" --out "$out/$name-steps"
done
