"""Ctrl-C is heard although something swallows the exception."""

import signal
from contextlib import suppress

import pytest

from zskd.core.interrupt import raise_lost, remembered
from zskd.core.progress import PlainProgress, Progress


@pytest.mark.parametrize("progress", [Progress(), PlainProgress()])
def test_a_swallowed_interruption_is_raised_at_the_next_step(progress: Progress) -> None:
    with remembered(), progress.task("work", 3, "steps") as task:
        task.advance()
        with suppress(BaseException):  # as a finaliser does
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            task.advance()


def test_the_handler_of_the_caller_comes_back_and_nothing_is_left() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), remembered():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    raise_lost()
