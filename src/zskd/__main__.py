"""The command `zskd`: set the environment, then run the command line."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    # OpenMP reads this once, when torch is imported. Threads that wait actively make a step up to twenty
    # times slower on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from zskd.core.stdio import open_closed_streams

    open_closed_streams()  # before anything else opens a file
    try:
        from zskd.cli.main import main as run
    except (
        ImportError,
        MemoryError,
        OSError,
    ) as error:
        print(f"zskd: error: {error}: give zskd more memory and files, or install it again", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
