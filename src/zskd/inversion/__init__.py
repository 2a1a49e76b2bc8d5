"""Turning targets into images: start, optimise, keep inside the box."""

from zskd.inversion.loop import Chain, invert
from zskd.inversion.starts import draw_starts, draw_warps

__all__ = ["Chain", "draw_starts", "draw_warps", "invert"]
