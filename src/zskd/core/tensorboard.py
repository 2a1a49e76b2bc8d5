"""Curves and pictures of a run for TensorBoard, an optional extra: `pip install 'zskd[tb]'`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zskd.core.errors import ZskdError, one_line, readable_errors
from zskd.core.files import make_folder
from zskd.core.progress import Progress, Relay

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from zskd.core.types import Images

_FLUSH_SECONDS = 10
"""Interval of writing to disk; at most this much of a curve is lost when the process is killed."""


@contextmanager
def tracked(progress: Progress, folder: Path | None, name: str) -> Iterator[Progress]:
    """Yield a progress that records curves and pictures as event files; close the files in any case.

    Args:
        progress: receives everything else.
        folder: TensorBoard's log folder; None: yield `progress` itself.
        name: sub-folder for this training. When a training resumes at step n, earlier points from step n
            on are dropped.

    Raises:
        ZskdError: TensorBoard is not installed, or the folder cannot be written to.
    """
    if folder is None:
        yield progress
        return
    try:
        import torch.utils.tensorboard  # noqa: F401  fail before any work starts
    except ImportError as error:
        raise ZskdError(
            f"--tensorboard needs TensorBoard ({one_line(error)}): pip install 'zskd[tb]'"
        ) from error
    tracking = _Tracked(progress, make_folder(folder / name))
    try:
        yield tracking
    finally:
        tracking.close()


class _Tracked(Relay):
    """Writes event files, and passes the rest to another progress."""

    def __init__(self, progress: Progress, folder: Path) -> None:
        super().__init__(progress)
        self.listens = True
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def note(self, name: str, value: float, step: int) -> None:
        with readable_errors(self._folder, "write to"):
            self._from(step).add_scalar(name, value, step)

    def picture(self, name: str, images: Images) -> None:
        # TensorBoard draws one channel or three
        pixels = images.clamp(0, 1) if images.shape[1] == 3 else images[:, :1].clamp(0, 1)
        with readable_errors(self._folder, "write to"):
            self._from(0).add_images(name, pixels, 0)

    def close(self) -> None:
        """Write everything to disk."""
        if self._writer is not None:
            with readable_errors(self._folder, "write to"):
                self._writer.close()

    def _from(self, step: int) -> SummaryWriter:
        """Return the writer, which is made at the first record; a task that is already done writes no file.

        After an interruption, some steps are repeated: TensorBoard then drops the earlier points from this
        step on.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step, flush_secs=_FLUSH_SECONDS)
        return self._writer
