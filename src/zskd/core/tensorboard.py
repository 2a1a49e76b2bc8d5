"""Curves and pictures of a run for TensorBoard, an optional extra: `pip install 'zskd[tb]'`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zskd.core.errors import ZskdError, one_line
from zskd.core.files import make_folder, readable_errors
from zskd.core.progress import Progress, Task

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from zskd.core.types import Images

_FLUSH_SECONDS = 10
"""A curve is at most so much older on disk, and so much of it is lost when the process is killed."""


@contextmanager
def tracked(progress: Progress, folder: Path | None, name: str) -> Iterator[Progress]:
    """Give a progress whose curves and pictures are kept as event files, and close these in any case.

    Args:
        progress: told of everything else.
        folder: that TensorBoard is shown; None: `progress` itself is given.
        name: of one piece of work, a folder in that one. Done again from step n on, what stood there from
            that step on is dropped.

    Raises:
        ZskdError: TensorBoard is not installed, or the folder cannot be written to.
    """
    if folder is None:
        yield progress
        return
    try:
        import torch.utils.tensorboard  # noqa: F401  what is missing is told before anything is made
    except ImportError as error:
        raise ZskdError(
            f"--tensorboard needs TensorBoard ({one_line(error)}): pip install 'zskd[tb]'"
        ) from error
    tracking = _Tracked(progress, make_folder(folder / name))
    try:
        yield tracking
    finally:
        tracking.close()


class _Tracked(Progress):
    """Another progress, and event files beside it."""

    listens = True

    def __init__(self, progress: Progress, folder: Path) -> None:
        self._progress, self._folder = progress, folder
        self._writer: SummaryWriter | None = None
        self.verbose = progress.verbose

    def log(self, text: str) -> None:
        self._progress.log(text)

    def detail(self, text: str) -> None:
        self._progress.detail(text)

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        with self._progress.task(title, total, unit, done) as task:
            yield task

    def note(self, name: str, value: float, step: int) -> None:
        with readable_errors(self._folder, "write to"):
            self._from(step).add_scalar(name, value, step)

    def picture(self, name: str, images: Images) -> None:
        # TensorBoard draws one channel or three
        shown = images.clamp(0, 1) if images.shape[1] == 3 else images[:, :1].clamp(0, 1)
        with readable_errors(self._folder, "write to"):
            self._from(0).add_images(name, shown, 0)

    def close(self) -> None:
        """Write everything to disk."""
        if self._writer is not None:
            with readable_errors(self._folder, "write to"):
                self._writer.close()

    def _from(self, step: int) -> SummaryWriter:
        """Return the writer, which is made for the first thing that is noted.

        Work that goes on after an interruption takes some steps again: TensorBoard then drops the lines of
        the earlier process from this step on. Work that is found done notes nothing and leaves no file.
        """
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step, flush_secs=_FLUSH_SECONDS)
        return self._writer
