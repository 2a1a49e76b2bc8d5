"""The folder of the IDX files: the user's own, or a cache that is filled once by a verified download."""

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
"""The publishers' checksums of the packed files."""


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
    files = [file.removesuffix(".gz") for file in _MD5[name]]
    folders = (Path(given) / _LAYOUT[name], Path(given))
    for folder in folders:
        if all((folder / file).is_file() or (folder / f"{file}.gz").is_file() for file in files):
            return folder
    raise ZskdError(
        f"{name} is not in {given}: put {', '.join(files)} (each plain or as .gz) into {folders[0]}"
    )


def cache_folder() -> Path:
    """Return the folder of downloads; the environment variable `ZSKD_CACHE` overrides it."""
    return Path(os.environ.get("ZSKD_CACHE") or platformdirs.user_cache_dir("zskd"))


def _fill_cache(name: str) -> Path:
    import pooch  # imported here, because its HTTP libraries are slow to import

    pooch.get_logger().setLevel(logging.ERROR)
    folder = make_folder(cache_folder() / _LAYOUT[name])
    for file, md5 in _MD5[name].items():
        tried = []
        for mirror in _MIRRORS[name]:
            try:
                downloader = pooch.HTTPDownloader(timeout=20)
                pooch.retrieve(mirror + file, f"md5:{md5}", file, folder, downloader=downloader)
                break
            except Exception as error:  # the network libraries raise many kinds
                # pooch raises a plain ValueError for a wrong checksum
                why = "wrong checksum" if type(error) is ValueError else type(error).__name__
                tried.append(f"{mirror + file} ({why})")
        else:
            raise ZskdError(
                f"cannot download {name}; tried {' and '.join(tried)}. Without internet, put "
                f"{', '.join(_MD5[name])} into DIR/{_LAYOUT[name]} and add --data-dir DIR"
            )
    return folder
