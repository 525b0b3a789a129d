"""What pyproject.toml cannot say yet, or only as an experiment: the C extension of srl.rewards.similarity.

It is optional: without a compiler the package installs all the same, and the similarity falls back to Python.
One wheel serves every Python from 3.11 on (stable ABI). Free-threaded Pythons have no such ABI before 3.15,
and refuse to build for it: they use the fallback.
"""

import sysconfig

from setuptools import Extension, setup

has_stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")
matcher = Extension(
    "srl.rewards.similarity._matcher",
    sources=["src/srl/rewards/similarity/_matcher.c"],
    py_limited_api=True,
    optional=True,
)

setup(
    ext_modules=[matcher] if has_stable_abi else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if has_stable_abi else {},
)
