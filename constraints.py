"""Print constraints.txt for pip, but keep a PyTorch that is installed already and new enough.

A small CPU build, say 2.14.1+cpu, would otherwise be replaced by the pinned build with its GPU libraries.
Each release of torchvision asks for one release of PyTorch: with another than the pinned one, pip chooses
the torchvision.
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent


def release(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (2, 14, 1) of 2.14.1+cpu."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def floor() -> str:
    """Return the oldest PyTorch that zskd runs with."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (found,) = (one.removeprefix("torch>=") for one in project["dependencies"] if one.startswith("torch>="))
    return found


def installed() -> str:
    """Return the version of PyTorch in the environment of the Python that runs this; "0" without one."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return "0"


def pinned(lines: str) -> str:
    """Return the version of PyTorch that is pinned in the text of constraints.txt."""
    (found,) = re.findall(r"^torch==(.*)$", lines, flags=re.MULTILINE)
    return found


def main() -> None:
    """Print the constraints for the environment of the Python that runs this."""
    lines, found = (HERE / "constraints.txt").read_text(encoding="utf-8"), installed()
    if release(found) >= release(floor()):  # a fresh environment gets the pinned one
        other = release(found) != release(pinned(lines))
        lines = re.sub(r"^torch==.*$", f"torch=={found}", lines, flags=re.MULTILINE)
        if other:
            lines = re.sub(r"^torchvision==.*\n", "", lines, flags=re.MULTILINE)
    print(lines, end="")


if __name__ == "__main__":
    main()
