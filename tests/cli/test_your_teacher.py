"""The walk of docs/your-teacher.md, word for word, from a file in the layout of the public one."""

import re
from pathlib import Path

import pytest
import torch

from conftest import run_blocks
from zskd.models.factory import build, describe, fresh_weights
from zskd.run.verify import verify_folder

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "your-teacher.md").read_text(encoding="utf-8")


def public_file(path: Path) -> None:
    """Write random weights in the layout of the public file: nested, prefixed, old format, no counters."""
    network = fresh_weights(
        lambda: build(describe("resnet20", shape=(3, 32, 32), classes=10), run_code=False), seed=0
    )
    network(torch.rand(32, 3, 32, 32) * 4 - 2)  # so that running statistics are not the initial ones
    named = {
        f"module.{name}": value for name, value in network.state_dict().items() if "num_batches" not in name
    }
    saved = {"state_dict": named, "best_prec1": 91.78}
    torch.save(saved, path, _use_new_zipfile_serialization=False)


@pytest.mark.slow
def test_the_walk_runs_as_it_stands(tmp_path: Path) -> None:
    public_file(tmp_path / "resnet20-12fca82f.th")
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 1
    run_blocks(blocks, tmp_path)
    assert verify_folder(tmp_path / "student")
    card = (tmp_path / "teacher" / "card.json").read_text(encoding="utf-8")
    assert "given by --mean" in card
    assert "stripped 'module.'" in card
