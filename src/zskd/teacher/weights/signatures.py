"""What a file is that holds no weights which can be read: one true line, from its first bytes."""

from __future__ import annotations

import re

_ONNX = "give it as onnx:FILE"
_UNPACK = "unpack it and give the file inside"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (512, b"\x89HDF\r\n\x1a\n", "is a MATLAB 7.3 file: save it again with -v7"),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        f"is an HDF5 file (Keras, .h5), not of torch: export the network to ONNX and {_ONNX}",
    ),
    (0, b"GGUF", "is a GGUF file of quantised weights: give the original weights"),
    (4, b"TFL3", "is a TensorFlow Lite network: export the original to ONNX and " + _ONNX),
    (4, b"ORTM", "is a network of ONNX Runtime (.ort): give the .onnx file as onnx:FILE"),
    (0, b"\x1f\x8b", f"is compressed with gzip: {_UNPACK}"),
    (0, b"BZh", f"is compressed with bzip2: {_UNPACK}"),
    (0, b"\xfd7zXZ\x00", f"is compressed with xz: {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"is compressed with zstandard: {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"is a 7-zip archive: {_UNPACK}"),
    (0, b"Rar!", f"is a RAR archive: {_UNPACK}"),
    (257, b"ustar", f"is a tar archive: {_UNPACK}"),
    (0, b"\x93NUMPY", "is a NumPy file without names (.npy): save named arrays with numpy.savez"),
    (0, b"\x89PNG", "is a PNG picture, not weights"),
    (0, b"\xff\xd8\xff", "is a JPEG picture, not weights"),
    (0, b"%PDF", "is a PDF document, not weights"),
    (0, b"\x7fELF", "is a program or library for Linux, not weights"),
    (0, b"MZ", "is a program for Windows, not weights"),
    (0, b"ftrt", "is an engine of TensorRT: give the original weights"),
    (
        0,
        b"\x04\x00\x00\x00\x01\x00\x00\x00",
        "is a file of Lua Torch, which is no longer read: convert it first",
    ),
    (
        0,
        b"\x03\x00\x00\x00\x01\x00\x00\x00",
        "is a file of Lua Torch, which is no longer read: convert it first",
    ),
)
"""Place, bytes, and the end of the message."""
_OLD_TORCH = (b"sys_info", b"pickle", b"storages", b"tensors")
"""First names in a tar archive that torch wrote."""
_ONNX_HEAD = re.compile(rb"\x08[\x03-\x20](?:[\x12\x1a\x22\x32][\x00-\x7f]|\x3a|\x42)", re.DOTALL)
"""Protocol buffer of an ONNX network: the version, then producer, domain, text or graph."""
_TEXT = bytes([*range(32, 127), *b"\t\n\r\f"])


def signature(head: bytes) -> str | None:
    """Return what a file is, for the end of "FILE …"; None: its first bytes are no known signature.

    Args:
        head: its first bytes, at least 520 if it has so many.
    """
    if head[257:262] == b"ustar" and head.partition(b"\0")[0] in _OLD_TORCH:
        return "is in torch's format before version 0.2: load it with torch and save it again"
    for place, found, text in _SIGNATURES:
        if head[place : place + len(found)] == found:
            return text
    if head.startswith(b"\x80") and b"joblib.numpy_pickle" in head:
        return "is a file of joblib, not of torch: save model.state_dict() with torch.save"
    if _ONNX_HEAD.match(head):
        return f"is an ONNX network: {_ONNX}"
    if head.startswith(b"\x08\x01\x12"):
        return f"is a TensorFlow network (saved_model.pb): export it to ONNX and {_ONNX}"
    return None


def text(head: bytes) -> str | None:
    """Return what a text file is, for the end of "FILE …"; None: it is no text."""
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # otherwise the last character is cut off
            return None
    if head.translate(None, _TEXT + bytes(range(128, 256))):
        return None
    start = head.lstrip()[:64].lower()
    if start.startswith(b"<"):
        return "is a web page (HTML or XML), not weights: the download failed, so download it again"
    if start.startswith((b"{", b"[")):
        return "is a JSON file, not weights: give the file or the folder that it belongs to"
    return "is a text file, not weights"
