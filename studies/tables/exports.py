"""The table of docs/export.md: exported networks, their sizes, times and test accuracies."""

from __future__ import annotations

from collections.abc import Callable

from records import RESULTS, Line, read_lines
from zskd.experiment.report.tables import markdown_table

_FORMATS = {"onnx": "float32", "onnx-int8": "8 bits"}


def exports() -> str:
    """Size, µs per image and test accuracy of each network in float32 and in 8 bits."""
    lines = _lines()
    batches = [one["batch"] for one in lines[0]["latency"]["onnx"]]
    head = (
        "network",
        "ONNX",
        "bytes",
        *(f"µs per image, batch {batch}" for batch in batches),
        "test accuracy, %",
    )
    rows = [
        (
            f"{line['network']}, {line['parameters']:,} parameters" if to == "onnx" else "",
            name,
            f"{line['bytes'][to]:,}",
            *(f"{one['median']:.3g}" for one in line["latency"][to]),
            f"{line['test_accuracy'][to]:.1f}",
        )
        for line in lines
        for to, name in _FORMATS.items()
    ]
    return markdown_table(head, rows)


def provenance() -> str:
    """How the table was made, and what else was found."""
    lines = _lines()
    first, commits = lines[0], ", ".join(sorted({line["commit"][:8] for line in lines}))
    worst = max(one["difference"] / one["largest"] for line in lines for one in line["differences"].values())
    least = min(line["agreement"]["percent"] for line in lines)
    return (
        f"`{first['command']}`; trained on digits for {first['epochs']} epochs, {first['test_images']} test "
        f"images. In 8 bits they predict the same class for {least:.1f} % or more of "
        f"{first['agreement']['n']:,} random shapes. The float32 files, the archives and the folders differ "
        f"from the networks by {worst:.0e} of the largest logit at most. One thread of "
        f"{first['processor']['name']}; torch {first['versions']['torch']}, onnxruntime "
        f"{first['onnxruntime']}; commit {commits}."
    )


def _lines() -> list[Line]:
    return read_lines(RESULTS / "exports.json")


EXPORTS_TABLES: dict[str, Callable[[], str]] = {"exports": exports, "exports-provenance": provenance}
