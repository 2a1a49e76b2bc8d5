"""Turning targets into images: start, optimise, keep inside the box."""

from zskd.inversion.loop import Moment, Work, invert
from zskd.inversion.starts import draw_starts, draw_warps

__all__ = ["Moment", "Work", "draw_starts", "draw_warps", "invert"]
