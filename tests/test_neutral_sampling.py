"""What a model's generation_config recommends changes neither evaluation nor rollouts; its end tokens count."""

import json
import shutil

import pytest
from trainers import SampledByTRL, trainer_on

from srl.chat.prompts import answer_prompt
from srl.engines.transformers import TransformersEngine
from srl.training.trainer import SRLTrainer

PROMPTS = [answer_prompt(text) for text in ("Add 3 and 6, then double it.", "What is nine?", "7 7 7")]
RECOMMENDED = {
    "narrow": {
        **{"top_k": 1, "top_p": 0.1, "min_p": 0.9, "typical_p": 0.05, "epsilon_cutoff": 0.01, "temperature": 0.1},
        **{"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "encoder_repetition_penalty": 3.0},
        **{"suppress_tokens": list(range(20)), "begin_suppress_tokens": [9], "bad_words_ids": [[11]]},
    },
    "others": {
        **{"min_new_tokens": 12, "max_length": 3, "max_new_tokens": 2, "forced_eos_token_id": 3},
        **{"num_beams": 2, "length_penalty": 2.0, "do_sample": False},
    },
}


@pytest.fixture
def recommending(tiny_model, tmp_path):
    """The tiny model with options in its generation_config.json."""

    def made(**options):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tiny_model, folder)
        path = folder / "generation_config.json"
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**before, "do_sample": True, **options}))
        return folder

    return made


@pytest.mark.parametrize("kind", RECOMMENDED)
def test_evaluation_samples_from_the_raw_policy(recommending, kind):
    def completions(**options):
        engine = TransformersEngine(str(recommending(**options)), 8)
        found = {}
        for engine.shares_keys in (False, True):
            for temperature in (0.0, 1.0):
                replies = engine.generate(PROMPTS[: 1 if engine.shares_keys else 3], [1, 2, 3], temperature)
                found[engine.shares_keys, temperature] = [reply.text for reply in replies]
        return found

    assert completions(**RECOMMENDED[kind]) == completions()


@pytest.mark.parametrize("cls", [SRLTrainer, SampledByTRL])
def test_rollouts_are_of_the_raw_policy(recommending, tmp_path, cls):
    def rollouts(**options):
        seen = []

        def reward(completions, **_):
            seen.extend(one[0]["content"] for one in completions)
            return [float(i % 2) for i in range(len(completions))]

        trainer = trainer_on(recommending(**options), tmp_path / "run", cls=cls, reward=reward, max_steps=1)
        trainer.train()
        return seen

    plain = rollouts()
    assert len(set(plain)) > 1
    for kind, options in RECOMMENDED.items():
        assert rollouts(**options) == plain, kind


def test_the_end_tokens_of_a_generation_config_are_kept(recommending):
    engine = TransformersEngine(str(recommending(eos_token_id=[3, 11])), 8)
    assert {3, 11} <= set(engine.chat.end_ids)
