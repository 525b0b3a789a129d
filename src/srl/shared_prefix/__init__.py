"""Shared prefixes: tokens that the steps and samples of a trajectory have in common are computed once.

The N prompts of a trajectory extend one another and each has G completions: N x G rows that are mostly the
same tokens. `packing` puts every shared token into one packed row once, `attention` lets each token see its
own ancestors there (parts of a softmax, computed and merged by `kernels`), `cost` says what that costs,
`trainer` uses it for TRL's log-probs. `branches` and `sampler` draw completions over keys and values that
are kept once. `support` knows which models that is right for, `trial` tries the others.
"""
