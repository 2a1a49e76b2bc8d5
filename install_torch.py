"""Install the small CPU build of PyTorch where there is no GPU, before pip chooses one of several gigabytes.

    python install_torch.py auto|cpu|cuda|as-is [ARGUMENT OF PIP]...

`auto` is `cuda` where `nvidia-smi` finds a GPU, else `cpu`. The CPU build comes from the index that
pytorch.org/get-started names. Where that cannot be reached, where nothing is to be done (another system than
Linux, `cuda`, `as-is`), and where a PyTorch is there that is new enough, pip decides with all other packages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from constraints import HERE, floor, installed, pinned, release

INDEX = "https://download.pytorch.org/whl/cpu"
SIZES = {
    "cpu": "0.2 GB to download, 0.8 GB on disk: a minute or two with 50 Mbit/s",
    "cuda": "3 GB to download, 6 GB on disk: ten minutes with 50 Mbit/s; TORCH=cpu is the small build",
}


def has_gpu() -> bool:
    """Return whether NVIDIA's own tool finds a GPU."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


def main() -> int:
    """Install it, or leave it to pip."""
    wanted, *arguments = sys.argv[1:]
    if wanted not in ("auto", *SIZES, "as-is"):
        print(f"TORCH={wanted}: it must be auto, cpu, cuda or as-is", file=sys.stderr)
        return 2
    if wanted == "auto":
        wanted = "cuda" if has_gpu() else "cpu"
    if wanted == "as-is" or release(installed()) >= release(floor()) or sys.platform != "linux":
        return 0
    version = pinned((HERE / "constraints.txt").read_text(encoding="utf-8"))
    print(f"PyTorch {version}, {wanted} build: about {SIZES[wanted]}", flush=True)
    if wanted == "cpu":
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        quick = ["--no-deps", "--retries", "0", "--timeout", "15"]
        done = subprocess.run(
            [*pip, *quick, *arguments, "--index-url", INDEX, f"torch=={version}"], check=False
        )
        if done.returncode:
            print(f"PyTorch was not found at {INDEX}: pip looks for it with all other packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
