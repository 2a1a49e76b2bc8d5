"""`zskd golden`: pairs of inputs and logits, with which an import is checked."""

from __future__ import annotations

from pathlib import Path

from zskd.cli.app import app
from zskd.cli.help import examples
from zskd.cli.telling import print_line
from zskd.core.errors import ZskdError


@app.command(
    help_epilogue=examples(
        "zskd golden my_net.py:MyNet@net.pt --shape 3 32 32 --mean 0.5 --std 0.25 > golden.py",
        "python golden.py",
        "zskd teacher import net.pt --model my_net.py:MyNet … --golden golden.npz --out teacher/",
        "zskd golden my_net.py:MyNet@net.pt --shape 3 32 32 --inputs pictures.npy",
    ),
)
def golden(
    source: str,
    /,
    *,
    inputs: Path | None = None,
    out: Path = Path("golden.npz"),
    model: str | None = None,
    shape: tuple[int, int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> None:
    """Print a short Python program that records golden pairs with your own code, without zskd.

    Without data, only pairs from your own program can reveal a wrong mean, standard deviation, channel order
    or copy of the weights. Check its line of mean and std against your own program: it holds what you give
    here. For file.py:factory@weights it works then; for other sources, one more line is left to you.

    With `--inputs`, zskd records the pairs itself: they show whether it reads the network in the same way
    later, or elsewhere, but not whether it reads it rightly.

    Args:
        source: file.py:factory@weights, or any other teacher.
        inputs: Images (N, C, H, W) in [0, 1], a .npy file or `inputs` in a .npz file, to record with zskd.
        out: File of the pairs, for `--golden`.
        model: The code, as file.py:factory, if SOURCE is a file of weights.
        shape: Channels, height and width of the images.
        mean: Mean of pixels in [0, 1], as in your program.
        std: Standard deviation, as in your program.
    """
    from zskd.teacher.named.source import parse_source
    from zskd.teacher.opening import open_teacher, with_weights
    from zskd.teacher.recording import golden_code, read_inputs, record_golden

    parsed = parse_source(source)
    if model is not None:
        parsed = with_weights(parsed, model)
    if inputs is not None:
        images = read_inputs(inputs)
        _, *size = images.shape
        if shape is not None and list(shape) != size:
            raise ZskdError(f"--shape is {shape} and {inputs} has images of {tuple(size)}: leave --shape out")
        shape = (size[0], size[1], size[2])
        teacher, _ = open_teacher(source, model=model, shape=shape, mean=mean, std=std)
        record_golden(teacher, images, out)
        print_line(f"{len(images)} golden pairs in {out}, by zskd's own reading")
        return
    if shape is None:
        raise ZskdError("the size of its images is not known: give --shape, such as --shape 3 32 32")
    print_line(golden_code(parsed, out, shape=shape, mean=mean or (0.0,), std=std or (1.0,)).rstrip())
