"""What a teacher with batch-norm gets where nothing is named: a whole run by the rule."""

import json
from pathlib import Path

import pytest

from zskd.cli.main import main
from zskd.config.loading import load_recipe
from zskd.models.checkpoint import read_card
from zskd.transfer_set.manifest import read_manifest


def test_a_run_by_the_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["run", "digits", "--teacher.model", "lenet5_bn", "--teacher.steps", "150"]
    command += ["--count", "100", "--held-out", "20", "--distill.steps", "20", "--controls", "none"]
    assert main([*command, "--workers", "1"]) == 0
    told = capsys.readouterr()
    said = told.out + told.err
    assert "preset batch_norm_chain, because the teacher is a chain of layers with batch-norm" in said
    run = Path("runs/digits")
    recipe = load_recipe(run / "recipe.yaml")
    assert (recipe.method, recipe.distill.features.loss) == ("zskd_bn", "aligned")
    made, held_out = (read_manifest(run / name) for name in ("sets/zskd_bn", "held_out/impressions"))
    assert made.method == held_out.method == "zskd_bn"
    for manifest in (made, held_out):
        assert manifest.resolved is not None
        assert manifest.resolved.flip in (0.0, 0.5)
    assert "flips: the teacher predicts the same class for" in said
    assert "only logits are compared" in said  # half has other channels
    assert read_card(run / "students/zskd_bn").origin.inherited
    metrics = json.loads((run / "metrics.json").read_text())
    estimate = metrics["arms"][0]["estimated_agreement"]
    assert estimate["percent"] is None
    low, found, high = estimate["signals"]["with_statistics"]
    assert low <= found <= high
    assert "impressions with the statistics of its batch-norm" in " ".join(estimate["words"])
