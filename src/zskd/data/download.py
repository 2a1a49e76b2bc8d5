"""Where the IDX files are: a folder of the user's, or a cache that is filled once by a checked download."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import platformdirs

from zskd.core.errors import ZskdError
from zskd.core.files import make_folder

_LAYOUT = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
"""The folder layout of torchvision, so that its downloads can be used as they are."""
_MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
}
_MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
}
"""The checksums that the publishers of both sets give for the packed files."""


def idx_folder(name: str, given: Path | None) -> Path:
    """Return the folder that holds a data set's four IDX files.

    Args:
        name: "mnist" or "fashion-mnist".
        given: the user's data folder; the cache of zskd is filled and used when absent.

    Raises:
        ZskdError: the folder lacks files, or no mirror gave files with the right checksum.
    """
    if given is None:
        return _fill_cache(name)
    wanted = [file.removesuffix(".gz") for file in _MD5[name]]
    places = (Path(given) / _LAYOUT[name], Path(given))
    for place in places:
        if all((place / file).is_file() or (place / f"{file}.gz").is_file() for file in wanted):
            return place
    raise ZskdError(
        f"{name} is not in {given}: put {', '.join(wanted)} (each plain or as .gz) into {places[0]}"
    )


def cache_folder() -> Path:
    """Return the folder that downloads are kept in; `ZSKD_CACHE` in the environment moves it."""
    return Path(os.environ.get("ZSKD_CACHE") or platformdirs.user_cache_dir("zskd"))


def _fill_cache(name: str) -> Path:
    import pooch  # only here: its HTTP libraries are slow to import

    pooch.get_logger().setLevel(logging.ERROR)
    folder = make_folder(cache_folder() / _LAYOUT[name])
    for file, md5 in _MD5[name].items():
        tried = []
        for mirror in _MIRRORS[name]:
            try:
                downloader = pooch.HTTPDownloader(timeout=20)
                pooch.retrieve(mirror + file, f"md5:{md5}", file, folder, downloader=downloader)
                break
            except Exception as error:  # every network library below raises its own kinds
                # pooch tells a wrong checksum by a plain ValueError
                why = "wrong checksum" if type(error) is ValueError else type(error).__name__
                tried.append(f"{mirror + file} ({why})")
        else:
            raise ZskdError(
                f"cannot download {name}; tried {' and '.join(tried)}. Without internet, put "
                f"{', '.join(_MD5[name])} into DIR/{_LAYOUT[name]} and add --data-dir DIR"
            )
    return folder
