"""The MATLAB file of the reproduction, read in another process, because scipy's reader can crash."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zskd.core.errors import ZskdError, one_line
from zskd.teacher.weights.archive import Contents
from zskd.teacher.weights.stored import StoredTensor

_LAYERS = ("conv0", "conv1", "fc0", "fc1", "fc2")
_SCOPES = ("Teacher", "Student")
_SECONDS = 60


def read_matlab(path: Path) -> Contents:
    """Read LeNet-5 from the reproduction's MATLAB file: teacher, student, or both.

    Its convolutions are height, width, in, out; its linear weights in, out; and the rows of `fc0` follow a
    height-width-channel flattening and ours is channel-height-width.

    Raises:
        ZskdError: the file is damaged, or is no file of the reproduction.
    """
    arrays = _read_arrays(path)
    found = [scope for scope in _SCOPES if f"{scope}/{_LAYERS[0]}/weights" in arrays]
    if not found:
        raise ZskdError(f"{path} is no MATLAB file of the reproduction: Teacher/conv0/weights is missing")
    candidates = {scope: _stored(_network(path, scope, arrays)) for scope in found}
    return Contents("MATLAB file of the reproduction", candidates)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of plain numbers, read in another process."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("matlab_child.py")), str(path.absolute())]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # threads reserve memory
    environment = {**os.environ, **one_thread}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_SECONDS,
            env=environment,
            check=False,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise ZskdError(f"{path} is no readable MATLAB file ({one_line(error)[-200:]})") from error
    if done.returncode:
        why = (
            " ".join(done.stderr.decode(errors="replace").split()[-30:])
            if done.returncode == 2
            else "damaged"
        )
        raise ZskdError(f"{path} is no readable MATLAB file ({why})")
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _network(path: Path, scope: str, arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        for layer in _LAYERS:
            weight = torch.from_numpy(np.asarray(arrays[f"{scope}/{layer}/weights"], dtype=np.float32))
            bias = torch.from_numpy(np.asarray(arrays[f"{scope}/{layer}/biases"], dtype=np.float32))
            if layer == "fc0":
                channels = tensors["conv1.weight"].shape[0]
                weight = weight.reshape(5, 5, channels, -1).permute(2, 0, 1, 3).reshape(25 * channels, -1)
            weight = weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T
            tensors[f"{layer}.weight"], tensors[f"{layer}.bias"] = weight.contiguous(), bias.reshape(-1)
    except KeyError as error:
        raise ZskdError(f"{path} is no file of the reproduction: {error} is missing") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ZskdError(f"{path}: a layer has not the shape of the reproduction's LeNet-5") from error
    return tensors


def _stored(tensors: dict[str, Tensor]) -> dict[str, StoredTensor]:
    return {name: StoredTensor(tuple(one.shape), one.dtype, one.clone) for name, one in tensors.items()}
