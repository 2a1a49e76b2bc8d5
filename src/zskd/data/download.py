"""The folder of the IDX files: the user's own, or a cache that is filled once by a verified download."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from zskd.core.errors import ZskdError, readable_errors
from zskd.core.files import cache_folder, make_folder, sha256_file

_LAYOUT = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
"""The folder layout of torchvision, so that its downloads can be used as they are."""
_MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
}
_SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
}
"""Of the packed files, whose MD5 are those that the publishers name."""
_OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
"""Errors that another mirror does not help against."""


def idx_folder(name: str, given: Path | None) -> Path:
    """Return the folder that holds a data set's four IDX files.

    Args:
        name: "mnist" or "fashion-mnist".
        given: the user's data folder; None: download to the cache of zskd.

    Raises:
        ZskdError: files are missing in the folder, or no mirror has files with the right checksum.
    """
    if given is None:
        return _fill_cache(name)
    files = [file.removesuffix(".gz") for file in _SHA256[name]]
    folders = (Path(given) / _LAYOUT[name], Path(given))
    for folder in folders:
        if all((folder / file).is_file() or (folder / f"{file}.gz").is_file() for file in files):
            return folder
    raise ZskdError(
        f"{name} is not in {given}: put {', '.join(files)} (each plain or as .gz) into {folders[0]}"
    )


def _fill_cache(name: str) -> Path:
    import pooch  # imported here, because its HTTP libraries are slow to import

    pooch.get_logger().setLevel(logging.ERROR)
    folder = cache_folder() / _LAYOUT[name]
    if all(
        (folder / one).is_file() and sha256_file(folder / one) == sha for one, sha in _SHA256[name].items()
    ):
        return folder  # which others may share without the right to write there
    make_folder(folder)
    for file, sha256 in _SHA256[name].items():
        tried = []
        for mirror in _MIRRORS[name]:
            try:
                downloader = pooch.HTTPDownloader(timeout=20)
                pooch.retrieve(mirror + file, f"sha256:{sha256}", file, folder, downloader=downloader)
                break
            except Exception as error:  # the network libraries raise many kinds
                if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                    with readable_errors(folder, "write to"):
                        raise
                # pooch raises a plain ValueError for a wrong checksum
                why = "wrong checksum" if type(error) is ValueError else type(error).__name__
                tried.append(f"{mirror + file} ({why})")
        else:
            raise ZskdError(
                f"cannot download {name}; tried {' and '.join(tried)}. Without internet, put "
                f"{', '.join(_SHA256[name])} into DIR/{_LAYOUT[name]} and add --data-dir DIR"
            )
    return folder
