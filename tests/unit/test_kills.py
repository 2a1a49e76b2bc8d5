"""What `make kills` counts as different; it kills real commands itself, and is not a part of the tests."""

import json
from pathlib import Path

from kills.compare import differences


def a_run(folder: Path, seconds: float) -> Path:
    files = {
        "out/metrics.json": json.dumps({"arms": [1], "seconds": seconds}).encode(),
        "out/README.md": f"{seconds} s in all: students\nthe rest".encode(),
        "out/recipe.yaml": b"workers: %d\nseed: 0" % seconds,
        "out/timings.json": str(seconds).encode(),
        "out/results/ledger.jsonl": b"".join(
            b'{"cell": "a", "time": "%d"}\n' % k for k in range(int(seconds))
        ),
        "out/teacher/model.safetensors": b"weights",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_times_and_workers_do_not_count_and_all_else_does(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "one", 1), a_run(tmp_path / "other", 2)
    assert differences(one, other, ("out",)) == (5, {})
    (other / "out/teacher/model.safetensors").write_bytes(b"Weights!")
    (other / "out/README.md").write_text("2 s in all: students\nthe Rest")
    (one / "out/.card.json.zskd-part").mkdir()
    (one / "out/.card.json.zskd-part/.tmp").write_bytes(b"")
    found = {"out/.card.json.zskd-part/.tmp": 1, "out/README.md": 1, "out/teacher/model.safetensors": 2}
    assert differences(one, other, ("out",)) == (6, found)
