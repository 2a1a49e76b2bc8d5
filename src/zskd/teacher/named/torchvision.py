"""Find a network of torchvision: `torchvision:NAME`.

Facts come from its weights: the size, mean and std of their `transforms()`, and `meta["categories"]`.
`torchvision:NAME(weights=IMAGENET1K_V2)` takes other weights than the default ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from zskd.config.checks import suggestion
from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.models.checkpoint import NOT_KNOWN
from zskd.models.libraries.arguments import check_arguments, plain
from zskd.models.libraries.torchvision import SLOW_WEIGHTS, TorchvisionNetwork, check_name, make_model
from zskd.teacher.named.facts import Fact, Facts, Found, Given, as_json, of_weights
from zskd.teacher.named.source import Source

_USUAL_SIZE: Final = 224
"""Height and width that a vision transformer is made for where nothing else is told."""


def find(source: Source, given: Given) -> Found:
    """Build a network of torchvision, with its weights unless the user names others.

    Raises:
        ZskdError: no such network (the nearest is suggested), wrong arguments, or weights that cannot be had.
    """
    check_name(source.name)
    arguments = dict(source.arguments)
    wanted = arguments.pop("weights", None)
    weights = _choose_weights(source.name, wanted)
    check_arguments(source.text, arguments)
    others = {}
    if source.weights is not None and source.name in SLOW_WEIGHTS and "transform_input" not in arguments:
        # as with torchvision's own weights, whose mean and std are taken
        arguments = {"transform_input": True} | arguments
        others["transform_input"] = f"{NOT_KNOWN}True is assumed, as for torchvision's own weights"
    architecture = TorchvisionNetwork(torchvision=source.name, arguments=as_json(arguments))
    if source.weights is not None:
        module = architecture.build()
        facts = replace(_facts(weights, arguments, assumed=wanted is None), others=others)
        return Found(module, architecture, facts)
    try:
        module = make_model(source.name, weights=weights, **plain(arguments))
    except Exception as error:  # no network, a full disk, an argument that contradicts the weights
        raise ZskdError(
            f"the weights of {source.text} cannot be had ({one_line(error)[:150]}): name a file of weights: "
            f"torchvision:{source.name}@FILE"
        ) from error
    arguments = with_weights(source.name, module) | arguments
    architecture = TorchvisionNetwork(torchvision=source.name, arguments=as_json(arguments))
    return Found(module, architecture, _facts(weights, arguments))


def with_weights(name: str, module: Any) -> dict[str, Any]:
    """Return the arguments that torchvision itself gave to a network, because its weights need them."""
    if name in SLOW_WEIGHTS:
        return {"transform_input": module.transform_input, "aux_logits": module.aux_logits}
    changed = name.startswith("vit_") and module.image_size != _USUAL_SIZE
    return {"image_size": module.image_size} if changed else {}


def _choose_weights(name: str, wanted: Any) -> Any:
    """Return a member of the weights of a network: the wanted one, or the default."""
    weights = import_extra("torchvision").models.get_model_weights(name)
    if wanted is None:
        return weights.DEFAULT
    members = list(weights.__members__)
    if wanted not in members:
        raise ZskdError(f"torchvision:{name} has no weights {wanted!r}{suggestion(str(wanted), members)}")
    return weights[wanted]


def _facts(weights: Any, arguments: dict[str, Any], *, assumed: bool = False) -> Facts:
    preset, name = weights.transforms(), f"torchvision {type(weights).__name__}.{weights.name}"
    origin = of_weights(name, assumed=assumed)
    size = preset.crop_size[0]
    categories = tuple(map(str, weights.meta.get("categories", ())))
    same = len(categories) == arguments.get("num_classes", len(categories))
    names = Fact(categories, of_weights(f"{name} categories", assumed=assumed))
    return Facts(
        shape=Fact((3, size, size), origin),
        mean=Fact(tuple(map(float, preset.mean)), origin),
        std=Fact(tuple(map(float, preset.std)), origin),
        class_names=names if categories and same else None,
    )
