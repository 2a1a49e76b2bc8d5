"""Texts of the files in an exported folder. They are read by people who do not have zskd."""

from typing import Final

MODEL_FILE: Final = '''"""{title}, for inference: images (N, C, H, W) in [0, 1] -> logits (N, K), for any N.

Written by `zskd export`. Needs torch and safetensors. The operations are what torch.export recorded of the
network in evaluation mode; normalisation is among them.

    from model import load
    logits = load()(images)

Fingerprint of the network in zskd: {sha256}
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, inf, nan, nn

CLASS_NAMES = {class_names!r}
SHAPE = {shape!r}  # channels, height, width
TENSORS = {{  # argument of compute: name in model.safetensors, shape, type, whether it is a parameter
{tensors}
}}
FOLDER = Path(__file__).resolve().parent


class Network(nn.Module):
    """The network, with weights of zero; its tensors have the names in model.safetensors."""

    def __init__(self):
        super().__init__()
        for name, shape, dtype, is_parameter in TENSORS.values():
            *path, last = name.split(".")
            owner = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            value = torch.zeros(shape, dtype=getattr(torch, dtype))
            if is_parameter:
                owner.register_parameter(last, nn.Parameter(value, requires_grad=False))
            else:
                owner.register_buffer(last, value)
        held = constants()
        self.__constants = tuple(held)  # with two underscores: a part of the network may be called constants
        for name, value in held.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, images):
        tensors = self.state_dict()
        named = {{argument: tensors[name] for argument, (name, *_) in TENSORS.items()}}
        return compute(images, **named, **{{name: getattr(self, name) for name in self.__constants}})[0]


def constants():
    """Return the values that the network holds besides its weights: argument of compute -> tensor."""
    values = {{
{constants}
    }}
    if (FOLDER / "constants.safetensors").is_file():
        values |= load_file(FOLDER / "constants.safetensors")
    return values


def load(folder=FOLDER):
    """Return the network with its weights, in evaluation mode."""
    network = Network()
    network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return network.eval()


{operations}
'''
"""`model.py`, for `str.format`."""

EXAMPLE_FILE: Final = '''"""Print the most probable classes of pictures, or of noise where none is named.

    python example.py picture.png

Needs torch, safetensors, NumPy and Pillow.
"""

import sys

import numpy as np
import torch
from model import CLASS_NAMES, SHAPE, load
from PIL import Image

# what turns a picture upright, by its EXIF orientation
UPRIGHT = dict(zip(range(2, 9), map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2))))


def read(path):
    """Return a picture as (1, C, H, W) in [0, 1], resized to the network's input."""
    channels, height, width = SHAPE
    with Image.open(path, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")) as picture:
        turn = UPRIGHT.get(picture.getexif().get(0x0112))
        if turn is not None:
            picture = picture.transpose(turn)
        if picture.mode == "F":  # fractions
            picture = Image.fromarray(np.asarray(picture) * 255)
        elif picture.mode.startswith("I"):  # 16 bits
            picture = Image.fromarray(np.asarray(picture, dtype=np.float32) / 257)
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(1, height, width, channels).transpose(0, 3, 1, 2).copy())


network = load()
for path in sys.argv[1:] or [None]:
    image = torch.rand(1, *SHAPE) if path is None else read(path)
    with torch.no_grad():
        best = torch.softmax(network(image)[0], 0).topk(min(3, len(CLASS_NAMES)))
    pairs = zip(best.indices.tolist(), best.values.tolist())
    classes = "  ".join(f"{CLASS_NAMES[k]} {value:.3f}" for k, value in pairs)
    print(f"{path or 'noise'}  {classes}")
'''
"""`example.py`."""

CARD_FILE: Final = """---
library_name: {library}
pipeline_tag: image-classification
tags:
- knowledge-distillation
- zskd
---

# {title}

An image classifier: {parameters} parameters, images of {shape} (channels, height, width), {classes} classes:
{names}.

## Use

```python
from model import load  # model.py of this folder; needs torch and safetensors

logits = load()(images)  # images (N, C, H, W) in [0, 1]; the normalisation is inside
```

`python example.py picture.png` prints the classes of a picture. From the Hub, or any folder:

```python
from huggingface_hub import PyTorchModelHubMixin
from model import Network


class Classifier(Network, PyTorchModelHubMixin):
    pass


network = Classifier.from_pretrained(".")
```
{by_timm}
## Results

{results}

## Intended use

Classification of pictures like those that its classes name, where a small and fast network is needed.

## Limits

{limits}

## How it was made

{made}
- Written by `zskd export --to hf`. Fingerprint of the network in zskd: {sha256}
"""
"""`README.md` of a folder for the Hub, for `str.format`."""
