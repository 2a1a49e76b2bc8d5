"""Networks of libraries by name, for the inputs and classes of a teacher, with random weights."""

from __future__ import annotations

from zskd.core.artefact import JsonObject
from zskd.core.code import parse_call
from zskd.core.errors import ZskdError
from zskd.core.extras import import_extra
from zskd.models.libraries import timm, torchvision
from zskd.models.libraries.arguments import check_arguments


def describe_library(
    model: str, *, shape: tuple[int, int, int], classes: int
) -> timm.TimmNetwork | torchvision.TorchvisionNetwork | None:
    """Return the architecture of `timm:NAME` or `torchvision:NAME`; None for another name.

    Args:
        model: the name; arguments of the network may follow in parentheses.
        shape: channels, height, width of the input.
        classes: number of classes K.

    Raises:
        ZskdError: the library is not installed or has no such network, or the network does not take so many
            channels.
    """
    library, colon, rest = model.partition(":")
    if not colon or library not in ("timm", "torchvision"):
        return None
    name, given = parse_call(rest)
    check_arguments(model, given)
    if library == "timm":
        name = name.partition(".")[0]  # behind the dot stands the name of pretrained weights
        timm.check_name(name)
        arguments: JsonObject = {"num_classes": classes, "in_chans": shape[0]}
        config = import_extra("timm").get_pretrained_cfg(name)
        if config is not None and config.fixed_input_size and config.input_size[1:] != shape[1:]:
            arguments["img_size"] = list(shape[1:])
        return timm.TimmNetwork(timm=name, arguments=arguments | given)
    torchvision.check_name(name)
    if shape[0] != 3:
        raise ZskdError(
            f"{model} takes images of 3 channels, not {shape[0]}: choose timm:NAME or a built-in name"
        )
    arguments = {"num_classes": classes}
    if name.startswith("vit_"):
        arguments["image_size"] = shape[1]
    return torchvision.TorchvisionNetwork(torchvision=name, arguments=arguments | given)
