"""A model's weights in another precision for a while.

Modules are lent converted copies; the parameters themselves, which optimizers and wrappers hold, are not touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

Lent = list[tuple[nn.Module, str, nn.Parameter]]


def lend(modules: Iterable[nn.Module], dtype: torch.dtype, instead_of: tuple[torch.dtype, ...]) -> Lent:
    """Give the modules copies in `dtype` of their own weights of other types; returns what to `take_back`.

    A weight that several modules share is converted for each of them.
    """
    lent = []
    for module in modules:
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.dtype in instead_of:
                lent.append((module, name, parameter))
                module._parameters[name] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    return lent


def take_back(lent: Lent) -> None:
    """Give the modules their own weights again."""
    for module, name, parameter in lent:
        module._parameters[name] = parameter


@contextmanager
def products_in(dtype: torch.dtype, model: nn.Module) -> Iterator[None]:
    """Weights of linear layers in `dtype`, as autocast would convert them at every call: the same numbers, sooner.

    It needs room for them once more.
    """
    with _lent([module for module in model.modules() if isinstance(module, nn.Linear)], dtype):
        yield


@contextmanager
def weights_in(dtype: torch.dtype, model: nn.Module) -> Iterator[None]:
    """All weights in `dtype`, as in a copy of the model; what is computed between products is then in `dtype` too."""
    with _lent(model.modules(), dtype):
        yield


@contextmanager
def _lent(modules: Iterable[nn.Module], dtype: torch.dtype) -> Iterator[None]:
    lent = lend(modules, dtype, (torch.float32,))
    try:
        yield
    finally:
        take_back(lent)
