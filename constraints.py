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


def main() -> None:
    """Print the constraints for the environment of the Python that runs this."""
    lines = (HERE / "constraints.txt").read_text(encoding="utf-8")
    dependencies = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    (floor,) = (one.removeprefix("torch>=") for one in dependencies if one.startswith("torch>="))
    try:
        installed = version("torch")
    except PackageNotFoundError:  # a fresh environment gets the pinned one
        installed = "0"
    if release(installed) >= release(floor):
        (pinned,) = re.findall(r"^torch==(.*)$", lines, flags=re.MULTILINE)
        lines = re.sub(r"^torch==.*$", f"torch=={installed}", lines, flags=re.MULTILINE)
        if release(installed) != release(pinned):
            lines = re.sub(r"^torchvision==.*\n", "", lines, flags=re.MULTILINE)
    print(lines, end="")


if __name__ == "__main__":
    main()
