"""Golden pairs: inputs with the logits that the original network gives for them.

They are worth what their independence is worth. Pairs from the user's own program reveal a wrong mean,
standard deviation, channel order or copy of the weights (`golden_code` prints a program that records them);
pairs from zskd's own reading only reveal later changes of it (`record_golden`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zskd.core.arrays import read_arrays
from zskd.core.errors import ZskdError
from zskd.core.files import whole_file
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.modes import frozen
from zskd.teacher.golden import AT_ONCE
from zskd.teacher.named.source import Source

_IMAGES = 16

_PROGRAM = """\
# Run this where your own program runs. Where your program builds, loads or normalises otherwise, write
# that instead: the logits must be those of your program.
{imports}
{network}
net.eval()
mean, std = {mean}, {std}  # write those of your program here, or a mistake stays unseen
x = torch.rand({images}, {shape})  # better: some of your own pictures, with pixels in [0, 1]
with torch.no_grad():
    logits = net((x - mean) / std)  # where it returns more, the logits alone: net(...)[0], net(...).logits
np.savez({out!r}, inputs=x.numpy(), logits=logits.numpy())
"""


def golden_code(
    source: Source,
    out: Path,
    *,
    shape: tuple[int, int, int],
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
) -> str:
    """Return a Python program that records golden pairs with torch alone, without zskd.

    Args:
        source: `file.py:factory@weights` gives a program that works as it stands if the weights are a
            `state_dict`, or hold one under this key. For other sources, a line is left open.
        out: the `.npz` file that the program writes.
        shape: channels, height and width of the images.
        mean: of the pixels in [0, 1]; one value, or one per channel.
        std: as `mean`.

    Raises:
        ZskdError: shape, mean or std are those of no network.
    """
    spec = InputSpec(shape=shape, mean=mean, std=std)
    imports = ["import numpy as np", "import torch"]
    if source.kind == "code":
        network = _own_network(source, imports)
    else:
        network = [f"net = ...  # {source.text}, built and loaded as in your program"]
    return _PROGRAM.format(
        imports="\n".join(imports),
        network="\n".join(network),
        mean=_per_channel(spec.mean),
        std=_per_channel(spec.std),
        images=_IMAGES,
        shape=", ".join(map(str, spec.shape)),
        out=str(out),
    )


def _own_network(source: Source, imports: list[str]) -> list[str]:
    """Return the lines that build and load a network of the user's code; add what they import."""
    module, _, factory = source.name.rpartition(":")
    if module.endswith(".py"):
        folder, module = str(Path(module).parent), Path(module).stem
        if folder != ".":
            imports.insert(0, "import sys")
            imports += [f"sys.path.insert(0, {folder!r})"]
    if module.replace(".", "_").isidentifier():
        imports.append(f"from {module} import {factory}")
    else:
        imports.insert(0, "import importlib")
        imports.append(f"{factory} = importlib.import_module({module!r}).{factory}")
    arguments = ", ".join(f"{key}={value!r}" for key, value in source.arguments.items())
    lines = [f"net = {factory}({arguments})"]
    if source.weights is None:
        return lines
    if source.weights.suffix == ".safetensors":
        imports.insert(imports.index("import torch") + 1, "from safetensors.torch import load_file")
        lines.append(f"state = load_file({str(source.weights)!r})")
    else:
        lines.append(f'state = torch.load({str(source.weights)!r}, map_location="cpu")')
    return [*lines, 'net.load_state_dict(state.get("state_dict", state))']


def _per_channel(values: tuple[float, ...]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"torch.tensor({list(values)}).view(-1, 1, 1)"


def record_golden(classifier: Classifier, inputs: Tensor, path: Path) -> None:
    """Write inputs and the classifier's logits for them to a new `.npz` file.

    Args:
        classifier: any; its modes are restored.
        inputs: (N, C, H, W) in [0, 1], as from `read_inputs`.
        path: of the file.

    Raises:
        ZskdError: images of another size, or the file exists or cannot be written.
    """
    if tuple(inputs.shape[1:]) != classifier.spec.shape:
        raise ZskdError(
            f"the inputs are {tuple(inputs.shape)}: this network needs images {classifier.spec.shape}"
        )
    if path.exists():
        raise ZskdError(f"{path} is there already: choose another file, or delete it")
    with frozen(classifier), torch.no_grad():
        logits = torch.cat([classifier(part) for part in torch.split(inputs, AT_ONCE)])
    with whole_file(path) as unfinished, unfinished.open("wb") as stream:
        np.savez(stream, inputs=inputs.numpy(), logits=logits.numpy())


def read_inputs(path: Path) -> Tensor:
    """Return images (N, C, H, W), float32, from a `.npy` file, or from `inputs` in a `.npz` file.

    Raises:
        ZskdError: unreadable file, another number of axes, or values that are no pixels in [0, 1].
    """
    array = read_arrays(path, ("inputs",)).get("inputs")
    if array is None:
        raise ZskdError(f"{path} has no array `inputs`: save it with np.savez(FILE, inputs=…)")
    if array.ndim != 4 or not array.size:
        raise ZskdError(f"{path} holds {array.shape}: images are (N, C, H, W), N at least 1")
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise ZskdError(f"{path}: inputs must be pixels in [0, 1], before mean and std are applied")
    return torch.from_numpy(array.astype(np.float32))
