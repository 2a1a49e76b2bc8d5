"""The table of docs/narrow.md: what narrower copies of networks of three libraries are."""

from __future__ import annotations

from collections.abc import Callable

from records import RESULTS, Line, read_lines


def narrow() -> str:
    """One row per network of `results/narrow.json`: what is left of it, how it was cut, and in which time."""
    lines = [
        "| network | library | pixels | parameters | left | multiply-adds | left | time, 1 image | many "
        "| cut | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in read_lines(RESULTS / "narrow.json"):
        network = f"{one['network']} | {one['library']} | {one['size']}"
        parameters, products = f"{one['parameters'] / 1e6:.2f} M", f"{one['multiply_adds'] / 1e6:.1f} M"
        if "how" not in one:
            why = one.get("why_not", one.get("fault"))
            lines.append(f"| {network} | {parameters} | – | {products} | – | – | – | {why} | – |")
            continue
        left = [f"{one[f'student_{what}'] / one[what]:.2f}×" for what in ("parameters", "multiply_adds")]
        times = " | ".join(f"{pair['student'] / pair['teacher']:.2f}×" for pair in one["us_per_image"])
        made = f"{times} | {one['how']} | {one['seconds']:.1f}"
        lines.append(f"| {network} | {parameters} | {left[0]} | {products} | {left[1]} | {made} |")
    return "\n".join([*lines, "", _made_with(read_lines(RESULTS / "narrow.json"))])


def _made_with(lines: list[Line]) -> str:
    """Return on what the times were taken."""
    first = lines[0]
    return (
        f"{first['processor']['name']}, one thread; torch {first['versions']['torch']}; `{first['command']}`"
    )


NARROW_TABLES: dict[str, Callable[[], str]] = {"narrow": narrow}
