"""Import a library of an extra only when it is needed, with a one-line error when it is missing."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

import torch

from zskd.core.code import import_object
from zskd.core.errors import ZskdError, one_line

EXTRAS: Final = {
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "hf",
    "onnx": "onnx",
    "onnx2fx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "export",
    "optuna": "tune",
    "pyarrow": "sets",
}
"""Library -> the extra of zskd that installs it."""
_NOT_COMPILED = ("nms", "qnms")
"""Operators that torchvision describes to torch at import, whether or not it could load them."""
_declared: list[torch.library.Library] = []
"""Declarations of operators; torch forgets them when the object goes."""


def import_extra(library: str) -> ModuleType:
    """Import a library of an extra.

    Args:
        library: a key of `EXTRAS`.

    Raises:
        ZskdError: it is not installed (the message holds the pip line), or it cannot be imported.
    """
    if library != "torchvision" and find_spec("torchvision") and EXTRAS[library] in ("timm", "hf"):
        import_extra("torchvision")  # timm and transformers import it themselves
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise ZskdError(f"{library} cannot be imported: {one_line(error)}") from error
        raise ZskdError(
            f"{library} is not installed: install it with pip install 'zskd[{EXTRAS[library]}]'"
        ) from error
    except RuntimeError as error:
        if library == "torchvision" and not _declared:
            _declare_operators()
            return import_extra(library)
        raise ZskdError(
            f"{library} cannot be imported ({one_line(error)}): install the build that belongs to torch "
            f"{torch.__version__}"
        ) from error


def import_network(target: str) -> Any:
    """Import code of the user's own that builds a network, as `import_object` does.

    Raises:
        ZskdError: as there.
    """
    try:
        return import_object(target)
    except ZskdError as error:
        if "operator torchvision::" not in str(error):
            raise
    import_extra("torchvision")  # with what its wheel lacks; the code imports it itself
    return import_object(target)


class Declarations:
    """What libraries need before they are imported, for a pickle: it stands before a network of a library, so
    that another process can read the network."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _declared_again, (bool(_declared),)


def _declared_again(needed: bool) -> Declarations:
    if needed and not _declared:
        _declare_operators()
    return Declarations()


def _declare_operators() -> None:
    """Declare operators of torchvision that are not there.

    The Linux wheel of torchvision on PyPI is compiled for the CUDA build of torch. With a CPU build its
    compiled operators cannot be loaded, and `import torchvision` fails when it describes one of them
    ("operator
    torchvision::nms does not exist"). Networks for classification use none of them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    _declared.append(library)
    for name in _NOT_COMPILED:
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
