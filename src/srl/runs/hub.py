"""The Hugging Face Hub, or this machine's cache of it where there is no network."""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants


def offline_without_network() -> None:
    """Where the Hub's name is not known, its libraries use the cache at once; else they try for half a minute."""
    if constants.HF_HUB_OFFLINE or getproxies():  # a proxy may know what is not known here
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
        if (config := sys.modules.get("datasets.config")) is not None:  # which has its own copy
            config.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def why_not_loaded(error: Exception) -> str:
    """The reason why something could not be had from the Hub, in one line."""
    if constants.HF_HUB_OFFLINE:
        return f"{constants.ENDPOINT} cannot be reached, or HF_HUB_OFFLINE is set, and it is not in the cache"
    return str(error).strip().splitlines()[0]
