"""Find a network of timm: `timm:NAME`, `timm:hf-hub:OWNER/NAME`, `timm:local-dir:FOLDER`.

Facts come from timm's `pretrained_cfg`: `input_size`, `mean`, `std`, `label_names`, `label_descriptions`.
For a name of the registry it is that of the named weights ("resnet18.a1_in1k") or of timm's default ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zskd.core.errors import ZskdError, one_line
from zskd.core.extras import import_extra
from zskd.models.libraries.arguments import check_arguments, plain
from zskd.models.libraries.timm import TimmNetwork, check_name
from zskd.teacher.named.facts import Fact, Facts, Found, Given, as_json, of_weights
from zskd.teacher.named.source import Source

_CFG = "timm pretrained_cfg"


def find(source: Source, given: Given) -> Found:
    """Build a network of timm, with timm's weights unless the user names others.

    Raises:
        ZskdError: no such network (the nearest is suggested), wrong arguments, or weights that cannot be had.
    """
    timm = import_extra("timm")
    check_arguments(source.text, source.arguments)
    place = next((one for one in ("local-dir", "hf-hub", "hf_hub") if source.name.startswith(f"{one}:")), "")
    if place:
        config, name, saved = _read_config(place, source)
        known = _input(config, name) | saved | {"num_classes": config.get("num_classes", 1000)}
    else:
        name = source.name.partition(".")[0]
        check_name(name)
        config = _registered(source.name)
        told, usual = (one.get("num_classes") for one in (config, _registered(name)))
        # of ImageNet-21k, say, which the name without its tag does not tell
        known = {"num_classes": told} if told and told != usual else {}
    arguments = known | source.arguments
    architecture = TimmNetwork(timm=name, arguments=as_json(arguments))
    if source.weights is not None:
        # a tag tells whose weights are in the file
        facts = _facts(config, arguments, assumed=source.name == name)
        return Found(architecture.build(), architecture, facts)
    told = config.get("num_classes", 1000)
    if arguments.get("num_classes", told) != told:
        raise ZskdError(
            f"the weights of {source.text} are for {told} classes, and the layer for "
            f"{arguments['num_classes']} would be random: name a file of weights: {source.text}@FILE"
        )
    try:
        module = timm.create_model(source.name, pretrained=True, **plain(source.arguments))
    except Exception as error:  # the hub, the network and timm raise many kinds
        advice = "check the folder" if place == "local-dir" else f"name a file of weights: timm:{name}@FILE"
        raise ZskdError(
            f"the weights of {source.text} cannot be had ({one_line(error)[:150]}): {advice}"
        ) from error
    return Found(module.float(), architecture, _facts(config, arguments))


def _read_config(place: str, source: Source) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return pretrained_cfg, name and arguments of a network in a folder or on the hub."""
    import_extra("timm")
    from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

    where = source.name.partition(":")[2]
    if place == "local-dir" and not (Path(where) / "config.json").is_file():
        raise ZskdError(f"{where} is no folder of timm: it has no config.json")
    read = load_model_config_from_path if place == "local-dir" else load_model_config_from_hf
    try:
        config, name, arguments = read(where)
    except Exception as error:  # the hub, the network and timm raise many kinds
        raise ZskdError(
            f"cannot read the configuration of {source.text} ({one_line(error)[:150]})"
        ) from error
    check_name(name)
    check_arguments(source.text, arguments or {})
    return dict(config), name, dict(arguments or {})


def _input(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the arguments by which timm makes a network for the inputs of a pretrained_cfg of its own."""
    size, usual = tuple(config.get("input_size") or ()), tuple(_registered(name).get("input_size") or ())
    found: dict[str, Any] = {}
    if size[:1] != usual[:1]:
        found["in_chans"] = size[0]
    if config.get("fixed_input_size") and size[1:] != usual[1:]:
        found["img_size"] = size[1:]
    return found if size else {}


def _registered(name: str) -> dict[str, Any]:
    """Return the pretrained_cfg of a name with or without tag; empty if timm has none."""
    from timm.models import get_pretrained_cfg

    try:
        found = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ZskdError(f"timm has no weights {name!r} ({one_line(error)})") from error
    return found.to_dict() if found else {}


def _facts(config: dict[str, Any], arguments: dict[str, Any], *, assumed: bool = False) -> Facts:
    """Return what a pretrained_cfg tells, after the arguments of the network."""
    name, weights = config.get("architecture"), config.get("tag")
    tag = f" of {name}.{weights}" if name and weights else ""
    origin = of_weights(_CFG + tag, assumed=assumed)
    size, told = config.get("input_size"), _CFG + tag if config.get("fixed_input_size") else origin
    changed = arguments.get("img_size")
    if size and changed:
        height, width = (changed, changed) if isinstance(changed, int) else changed
        size, told = (size[0], height, width), "img_size of the network"
    if size and arguments.get("in_chans"):
        size = (arguments["in_chans"], *size[1:])
    colours = size[0] if size else 3
    mean, std = config.get("mean"), config.get("std")
    fits = bool(mean and std and len(mean) in (1, colours))
    return Facts(
        shape=Fact((size[0], size[1], size[2]), told) if size else None,
        mean=Fact(tuple(map(float, mean or ())), origin) if fits else None,
        std=Fact(tuple(map(float, std or ())), origin) if fits else None,
        class_names=_class_names(config, arguments, assumed),
    )


def _class_names(
    config: dict[str, Any], arguments: dict[str, Any], assumed: bool
) -> Fact[tuple[str, ...]] | None:
    labels = config.get("label_names")
    if isinstance(labels, dict):  # by class
        labels = [labels.get(str(k)) for k in range(len(labels))]
        labels = None if None in labels else labels
    if not labels or len(labels) != arguments.get("num_classes", config.get("num_classes")):
        return None
    told = config.get("label_descriptions") or {}
    origin = of_weights(f"{_CFG} label_{'descriptions' if told else 'names'}", assumed=assumed)
    return Fact(tuple(str(told.get(label, label)) for label in labels), origin)
