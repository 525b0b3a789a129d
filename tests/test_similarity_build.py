"""The similarity's C extension, built: with a compiler, without one, and with the sanitizers under a fuzzer.

python tests/test_similarity_build.py 600      # the fuzzer alone, for so many seconds
"""

import os
import random
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest
from project_copy import ROOT, build_wheel

SANITIZE = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g"
STRICT = "-std=c99 -Wall -Wextra -Wshadow -Wconversion -Werror"

pytestmark = pytest.mark.slow


def use_wheel(wheel, folder):
    """What the similarity of an unpacked wheel says of itself: without the rest of the package."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    for front in ("srl", "srl/rewards"):
        (folder / front / "__init__.py").write_text("")
    program = "from srl.rewards import similarity as s; print(s.__file__, s.implementation(), s.ratio('abcd', 'bcde'))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True, env={}
    )
    path, *facts = run.stdout.split()
    assert Path(path).is_relative_to(folder)
    return facts, run.stderr


def test_with_a_compiler_the_wheel_has_the_extension_for_every_python(tmp_path):
    wheel = build_wheel(tmp_path, CFLAGS=STRICT)
    assert "-cp311-abi3-" in wheel.name
    assert any("_matcher" in name and name.endswith((".so", ".pyd")) for name in zipfile.ZipFile(wheel).namelist())
    assert use_wheel(wheel, tmp_path / "installed") == (["C", "0.75"], "")


def test_without_a_compiler_the_package_installs_and_falls_back(tmp_path):
    wheel = build_wheel(tmp_path, CC="/nonexistent/compiler")
    assert not any(name.endswith((".so", ".pyd")) for name in zipfile.ZipFile(wheel).namelist())
    facts, said = use_wheel(wheel, tmp_path / "installed")
    assert facts == ["Python", "0.75"]
    assert said.count("the C extension srl.rewards.similarity._matcher is missing") == 1


def test_the_sanitizers_find_nothing_in_30_seconds(tmp_path):
    assert "0 wrong" in run_fuzzer_under_sanitizers(tmp_path, seconds=30)


def run_fuzzer_under_sanitizers(folder, seconds):
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs gcc")
    include = sysconfig.get_paths()["include"]
    extension = Path(folder) / "_matcher.abi3.so"
    source = ROOT / "src/srl/rewards/similarity/_matcher.c"
    subprocess.run(
        [compiler, *SANITIZE.split(), "-fPIC", "-shared", f"-I{include}", source, "-o", extension], check=True
    )
    runtimes = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtime.strip() for runtime in runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps memory to its end; leaks have their own test
        "PYTHONMALLOC": "malloc",  # so that the sanitizer sees every allocation
    }
    command = [sys.executable, __file__, "fuzz", str(folder), str(seconds)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def fuzz(folder, seconds):
    """Random pairs of every kind and size, right and wrong arguments; against the pure-Python similarity."""
    from similarity_pairs import KINDS, as_token_ids

    from srl.rewards.similarity import fallback

    sys.path.insert(0, folder)
    import _matcher

    seed = time.time_ns() % 2**32
    rng, stop, pairs, wrong = random.Random(seed), time.monotonic() + seconds, 0, 0
    while time.monotonic() < stop:
        size = rng.choice([3, 20, 63, 64, 65, 66, 130, 300, 300, 2000])
        batch = [rng.choice(KINDS)(rng, size) for _ in range(rng.randrange(5))]
        if rng.random() < 0.2:
            batch = [(as_token_ids(a), tuple(as_token_ids(b))) for a, b in batch]
        actions, experts = [a for a, _ in batch], [b for _, b in batch]
        wrong += _matcher.matched_pairs(actions, experts) != fallback.matched_pairs(actions, experts)
        pairs += len(batch)
        junk = rng.choice([None, 1.5, b"x", [None], ["a"], [-1], [2**70], object()])
        try:
            _matcher.matched_pairs([*actions, junk], [*experts, junk])
            wrong += 1
        except (TypeError, ValueError):
            pass
    print(f"{pairs} pairs in {seconds:.0f} s, seed {seed}: {wrong} wrong, nothing found by ASAN and UBSAN")


if __name__ == "__main__":
    if sys.argv[1] == "fuzz":
        fuzz(sys.argv[2], float(sys.argv[3]))
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            print(run_fuzzer_under_sanitizers(folder, float(sys.argv[1])))
