"""What a rollout earns: the reward functions, the step similarity, and the judge of final answers."""

from srl.rewards.functions import StepReward, answer_correctness, reward_functions, step_similarity
from srl.rewards.latex import one_spelling

__all__ = ["StepReward", "answer_correctness", "one_spelling", "reward_functions", "step_similarity"]
