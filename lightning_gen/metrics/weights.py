"""Weights of published networks: found on disk or downloaded with a deadline, and never unpickled as code."""

import hashlib
import logging
import os
import pickle
import tempfile
import textwrap
import threading
import urllib.request
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lightning_gen.core import InputError
from lightning_gen.metrics.cache import cache_root

log = logging.getLogger(__name__)

SECONDS_WITHOUT_ANSWER = 15.0


def find_weights(url: str, remedy: str) -> Path:
    """The file of that address from our cache or torch.hub's, else downloaded into our cache.

    The file appears under its name only when it is complete.

    Raises:
        InputError: naming the address and ``remedy`` where it cannot be fetched, within seconds where nobody answers.
    """
    name = url.rsplit("/", 1)[-1]
    own = cache_root() / "weights" / name
    for path in (own, Path(torch.hub.get_dir()) / "checkpoints" / name):
        if path.is_file():
            return path
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=own.parent, prefix=".download-", delete=False) as file:
            try:
                _download(url, file)
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, own)
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name} cannot be downloaded from {url} ({reason}); {remedy}") from error
    return own


def _download(url: str, file: IO[bytes]) -> None:
    log.warning("downloading %s", url)
    digest, received = hashlib.sha256(), 0
    with _open(url) as response:
        expected = int(response.headers.get("Content-Length") or 0)
        while chunk := response.read(2**20):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    if not received or received < expected:
        raise OSError(f"the connection broke after {received} of {expected} bytes")
    log.warning("received %d bytes, sha256 %s", received, digest.hexdigest())


def _open(url: str) -> Any:
    """The response, or an OSError after the deadline: a resolver that hangs knows no socket timeout."""
    outcome: dict[str, Any] = {}

    def ask() -> None:
        try:
            outcome["response"] = urllib.request.urlopen(url, timeout=SECONDS_WITHOUT_ANSWER)
        except Exception as error:
            outcome["error"] = error

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS_WITHOUT_ANSWER)
    if "response" in outcome:
        return outcome["response"]
    error = outcome.get("error", TimeoutError(f"no answer in {SECONDS_WITHOUT_ANSWER:g} s"))
    raise error if isinstance(error, OSError) else OSError(str(error))


def first_line(error: Exception) -> str:
    """The first line of an error's message, or the name of its class where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__


def load_state(path: str | Path) -> dict[str, Tensor]:
    """A state dict from a safetensors or PyTorch file, without running code from it.

    Raises:
        InputError: for a missing file, one that holds more than tensors, or no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors and was not loaded; save a plain state_dict") from error
    except Exception as error:
        raise InputError(f"{path} is not a weights file ({first_line(error)})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} is not a plain state_dict of tensors")
    return state


def fill(module: torch.nn.Module, state: dict[str, Tensor], path: str | Path) -> None:
    """Load ``state`` into ``module``; raise InputError naming ``path`` where they do not fit."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        # it would name every key of a large network
        first = textwrap.shorten(lines[1] if lines[1:] else lines[0], 200, placeholder=" ...")
        raise InputError(f"{path} does not fit {type(module).__name__}: {first}") from error
