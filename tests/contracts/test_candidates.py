"""Start images that are chosen among candidates: balanced for the teacher, and the same from any worker."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zskd.cli.main import main
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.models.classifier import Classifier
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.candidates import choose
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.manifest import class_entropy


def spec(candidates: int, method: str = "noise", **synthesis: object) -> SetSpec:
    given = {"start": "procedural", "batch_size": 20, "shard_size": 50, "steps": 3, "noise_share": 0.5}
    config = SynthesisConfig(candidates=candidates, **(given | synthesis))  # type: ignore[arg-type]
    return SetSpec(method=method, count=100, seed=4, synthesis=config)


def test_a_class_receives_its_most_confident_candidates_and_lacking_ones_the_most_probable() -> None:
    outputs = torch.tensor(
        [
            [0.6, 0.3, 0.1],
            [0.9, 0.05, 0.05],
            [0.7, 0.1, 0.2],
            [0.1, 0.8, 0.1],
            [0.5, 0.2, 0.3],
            [0.4, 0.35, 0.25],
        ]
    )
    # class 0 is predicted for 0, 1, 2, 4 and 5, class 1 for 3, class 2 for none
    assert choose(outputs, torch.tensor([0, 1, 2])).tolist() == [1, 3, 4]
    assert choose(outputs, torch.tensor([2, 1, 1, 0, 0])).tolist() == [4, 3, 5, 1, 2]


def test_no_candidate_is_chosen_twice_and_classes_have_what_there_is() -> None:
    outputs = (3 * torch.randn(120, 5, generator=torch.Generator().manual_seed(0))).softmax(1)
    outputs = (outputs * torch.tensor([8.0, 4.0, 2.0, 1.0, 0.2])).softmax(1)
    wanted = torch.arange(40) % 5
    chosen = choose(outputs, wanted)
    assert len(set(chosen.tolist())) == 40
    predicted = outputs.argmax(1)
    for k in range(5):
        there = int((predicted == k).sum())
        assert int((predicted[chosen] == k)[wanted == k].sum()) == min(8, there)
        if there >= 8:
            least = float(outputs[chosen[wanted == k], k].min())
            assert int((outputs[predicted == k, k] > least).sum()) < 8


def test_more_candidates_give_more_balanced_sets_and_the_manifest_tells_it(
    teacher: Classifier, tmp_path: Path
) -> None:
    entropies = []
    for candidates in (1, 6):
        made = build_transfer_set(teacher, spec(candidates), tmp_path / str(candidates))
        logits, manifest = made.column("logits"), made.manifest
        counts = [int((logits.argmax(1) == k).sum()) for k in range(10)]
        assert manifest.predicted == tuple(counts)
        shares = torch.tensor(counts, dtype=torch.float64) / 100
        entropy = float(torch.special.entr(shares).sum()) / math.log(10)
        assert manifest.predicted_entropy == pytest.approx(entropy)
        assert ("candidates" in manifest.spec["synthesis"]) == (candidates > 1)  # type: ignore[operator]
        entropies.append(entropy)
    assert entropies[1] > entropies[0] + 0.05


def test_shares_follow_the_priors(teacher: Classifier) -> None:
    priors = (0.4, 0.3, 0.3, *[0.0] * 7)
    one = replace(spec(8), targets=TargetsConfig(priors=priors))
    plain = make_shard(teacher, replace(one, synthesis=spec(1).synthesis), 0)
    chosen = make_shard(teacher, one, 0)
    wanted = torch.tensor(priors)

    def distance(logits: torch.Tensor) -> float:
        return float((torch.bincount(logits.argmax(1), minlength=10) / len(logits) - wanted).abs().sum())

    assert distance(chosen.logits) < 0.7 * distance(plain.logits)


@pytest.mark.parametrize("method", ["noise", "class_impressions"])
def test_a_shard_is_the_same_whoever_makes_it(teacher: Classifier, tmp_path: Path, method: str) -> None:
    one = spec(3, method)
    made = build_transfer_set(teacher, one, tmp_path / "set")
    for number in (1, 0):
        again, stored = make_shard(teacher, one, number), list(TransferSet(made.folder))[number]
        assert torch.equal(again.images, stored.images)
        assert torch.equal(again.logits, stored.logits)


def test_every_picture_is_a_candidate_of_its_shard(teacher: Classifier) -> None:
    shard = make_shard(teacher, spec(3), 1)
    pool = torch.cat(
        [
            draw_initial(
                "procedural", range(50, 100), seed=4, shape=(1, 32, 32), box=(0, 1), candidate=number
            )
            for number in range(3)
        ]
    )
    places = [int((pool == image).all(dim=(1, 2, 3)).nonzero()[0, 0]) for image in shard.images]
    assert len(set(places)) == 50
    assert {place // 50 for place in places} == {0, 1, 2}


def test_a_trace_starts_at_the_chosen_picture_and_ends_in_the_stored_one(teacher: Classifier) -> None:
    one = spec(2, "class_impressions", noise_share=0.0)
    frames = trace_impression(teacher, one, 57)
    assert torch.equal(frames[-1].image, make_shard(teacher, one, 1).images[7])


def test_entropy_of_classes() -> None:
    assert class_entropy([5, 5, 5, 5]) == pytest.approx(1)
    assert class_entropy([7, 0, 0]) == 0
    assert class_entropy([1, 1, 0, 0]) == pytest.approx(0.5)


def test_synthesize_tells_the_classes_and_refuses_no_candidate(
    teacher_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["synthesize", str(teacher_folder), "--method", "noise", "--count", "20", "--out"]
    assert main([*asked, str(tmp_path / "set"), "--synthesis.candidates", "2"]) == 0
    assert "classes, entropy 0." in capsys.readouterr().out
    assert main([*asked, str(tmp_path / "none"), "--synthesis.candidates", "0"]) == 2
    assert "--synthesis.candidates" in capsys.readouterr().err
