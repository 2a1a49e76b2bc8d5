"""Settings at the ends of what is allowed, and networks that meet them: what was once wrong silently."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import Lines
from zskd.cli.main import main
from zskd.config.distillation import DistillConfig, FreshConfig, GeneratorConfig
from zskd.config.loading import load_recipe
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig, WarpConfig
from zskd.core.errors import ZskdError
from zskd.core.precision import computing_in
from zskd.data.transforms import affine_matrices, warp
from zskd.distillation import invariance
from zskd.distillation.adversarial.base import make_generator_method
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.terms import balance
from zskd.distillation.distill import distill
from zskd.experiment.definition import Experiment, load_experiment
from zskd.experiment.plan import plan_cells
from zskd.experiment.report.page import comparisons_of, records_of
from zskd.experiment.report.tables import provenance
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 8, 8))


def network(*, norm: bool = False, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    middle: nn.Module = nn.BatchNorm1d(16) if norm else nn.Identity()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), middle, nn.ReLU(), nn.Linear(16, outputs))


@pytest.fixture(scope="module")
def small() -> Classifier:
    return Classifier(network().eval(), spec=SPEC).freeze()


@pytest.fixture(scope="module")
def shapes(small: Classifier, tmp_path_factory: pytest.TempPathFactory) -> TransferSet:
    return build_transfer_set(
        small, SetSpec(method="noise", count=40), tmp_path_factory.mktemp("shapes") / "set"
    )


@pytest.mark.parametrize(
    ("typed", "most"),
    [
        ("--threads", 4096),
        ("--distill.generator.latent", 65536),
        ("--distill.generator.width", 65536),
        ("--distill.batch-size", 10**9),
        ("--teacher.batch-size", 10**9),
        ("--synthesis.candidates", 10**4),
    ],
)
def test_a_number_beyond_every_machine_is_refused(
    typed: str, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    show = ["run", "my-teacher", "--print-config", typed]
    for number in (most + 1, 2**62):
        assert main([*show, str(number)]) == 2
        assert capsys.readouterr().err.endswith(f" and at most {most:g}\n")
    assert main([*show, str(most)]) == 0


@pytest.mark.parametrize(("height", "width"), [(16, 64), (48, 24), (33, 33)])
def test_a_rotation_turns_images_that_are_not_square(height: int, width: int) -> None:
    bar = torch.zeros(1, 1, height, width)
    bar[..., width // 2] = 1.0
    ends = torch.full((1, 6), 0.5)
    ends[0, 0] = 1.0  # the largest angle
    turned = warp(bar, affine_matrices(ends, WarpConfig(rotation=15), height, width), 0.0)[0, 0]
    rows = torch.arange(height) + 0.5
    middles = (turned * (torch.arange(width) + 0.5)).sum(1) / turned.sum(1)
    slope = float(
        ((rows - rows.mean()) * (middles - middles.mean())).sum() / (rows - rows.mean()).square().sum()
    )
    assert abs(math.degrees(math.atan(slope))) == pytest.approx(15, abs=0.5)


def test_a_probability_near_one_keeps_its_logit_in_bfloat16() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    nn.init.constant_(body[1].weight, 0.0)
    nn.init.constant_(body[1].bias, 7.5)
    made = Classifier(nn.Sequential(*body, nn.Sigmoid()).eval(), spec=SPEC)
    with torch.no_grad(), computing_in("bfloat16"):
        logits = made(torch.rand(4, 1, 8, 8))
    torch.testing.assert_close(logits, torch.tensor([[-3.75, 3.75]]).expand(4, 2), rtol=1e-3, atol=1e-3)


def test_a_generator_learns_behind_jpeg_files(small: Classifier) -> None:
    config = GeneratorConfig(share=1.0, latent=4, width=4, augmented=True, student_steps=1)
    method = make_generator_method(config.method, {})
    made = AdversarialGenerator(
        small,
        Classifier(network(norm=True), spec=SPEC),
        method,
        config,
        seed=0,
        steps=9,
        augmentation=AugmentConfig(jpeg=1.0),
    )
    (module, _) = made.companions["generator"]
    before = [value.detach().clone() for value in module.parameters()]
    made.images(8)
    assert any(not torch.equal(value, old) for value, old in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        DistillConfig(fresh=FreshConfig(share=0.1), batch_size=4),
        DistillConfig(generator=GeneratorConfig(share=0.1, latent=4, width=4), batch_size=4),
        DistillConfig(
            start="random",
            generator=GeneratorConfig(share=1.0, latent=4, width=4, pool=20, replay=1.0),
            batch_size=4,
        ),
    ],
    ids=["fresh", "generator", "replay"],
)
def test_a_share_of_less_than_half_an_image_is_none(
    config: DistillConfig, small: Classifier, shapes: TransferSet
) -> None:
    config = replace(config, start="random", steps=6)
    log, every = Lines(), config.generator.share == 1
    made = distill(small, network(), None if every else shapes, config, progress=log)
    assert every != any(".share gives no image of a batch of 4" in line for line in log.lines)
    assert bool(torch.isfinite(made(torch.rand(2, 1, 8, 8))).all())


def test_a_class_that_no_image_has_leaves_the_gradient_finite() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    value = balance(logits)
    value.backward()
    assert float(value.detach()) == pytest.approx(-math.log(2))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_answers_to_jpeg_files_are_asked_at_the_quality_of_the_student(
    small: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def unchanged(images: Tensor, config: AugmentConfig, *_: object) -> Tensor:
        asked.append(config.jpeg_quality)
        return images

    monkeypatch.setattr(invariance, "augment", unchanged)
    invariance.measure_changes(small, torch.rand(4, 1, 8, 8), AugmentConfig(jpeg=1.0, jpeg_quality=(1, 5)))
    assert asked == [(1, 5)]


def test_pairs_are_on_both_sides_of_the_decision_also_in_bfloat16(tmp_path: Path) -> None:
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    made = Classifier(body.eval(), spec=SPEC).freeze()
    found = []
    for precision in ("float32", "bfloat16"):
        config = SynthesisConfig(steps=6, noise_share=0.0, batch_size=20, precision=precision, start="shapes")
        built = build_transfer_set(
            made, SetSpec(method="boundary", count=80, synthesis=config), tmp_path / precision
        )
        found.append(made(built.images(torch.arange(80))).argmax(1).view(40, 2))
    assert (found[0][:, 0] != found[0][:, 1]).any()
    assert torch.equal(found[0], found[1])


def test_batch_norm_of_one_image_is_told_in_a_line(small: Classifier, shapes: TransferSet) -> None:
    config = DistillConfig(start="random", steps=3, batch_size=1)
    with pytest.raises(ZskdError, match="takes no statistics of a single value: give --distill.batch-size 2"):
        distill(small, network(norm=True), shapes, config)


def test_a_generator_and_a_set_are_not_taken_together(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", str(teacher_folder), str(small_set.folder), "--preset", "dfad"]
    assert main([*command, "--out", str(tmp_path / "student")]) == 2
    assert "leave the transfer set out" in capsys.readouterr().err


def experiment(folder: Path, text: str) -> Experiment:
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return load_experiment(str(file))


def test_epochs_of_an_arm_take_the_place_of_steps(tmp_path: Path) -> None:
    found = experiment(
        tmp_path,
        "name: mine\nrecipe: digits\nsettings: {distill: {steps: 400}}\n"
        "arms: {a: {title: A}, b: {title: B, own_schedule: true, settings: {distill: {epochs: 20}}}}\n"
        "plan: [{arms: [a, b], rates: [10]}]\n",
    )
    lengths = {cell.arm_name: cell.recipe.distill for cell in plan_cells(found)}
    assert (lengths["a"].steps, lengths["a"].epochs) == (400, None)
    assert (lengths["b"].steps, lengths["b"].epochs) == (None, 20)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("like: digits\nsettings: {distill: {steps: 50}}\n", "name is missing"),
        ("name: x\nlike: digits\nplan: [{arms: [default]}]\narms: [default]\n", "arms"),
        ("name: x\nlike: digits\nplan: [{arms: 5}]\n", "arms"),
        ("name: x\nlike: digits\nplan: [{arms: [{a: 1}]}]\n", "arms"),
    ],
)
def test_an_experiment_like_another_is_refused_in_a_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match=words):
        experiment(tmp_path, text)


def test_a_share_of_pictures_counts_where_there_are_some() -> None:
    large = {"pictures": {"share": 0.8}}
    assert load_recipe("digits", {"images": "photos", "distill": large}).distill.pictures.share == 0.8
    with pytest.raises(ZskdError, match="share and few-share together is 1.05"):
        load_recipe("digits", {"images": "photos", "few": "some", "distill": large})


def test_a_comparison_with_an_arm_without_rates_is_planned(tmp_path: Path) -> None:
    found = experiment(
        tmp_path,
        "name: mine\nrecipe: digits\n"
        "arms: {a: {title: A}, b: {title: B, images: all real}}\n"
        "plan: [{arms: [a], rates: [10]}, {arms: [b]}]\n"
        "contrasts: [{first: a, second: b, rate: 10}, {first: a, second: a, rate: 10, second_rate: 10}]\n",
    )
    pairs = [(one.first, one.second) for one in comparisons_of(found)]
    assert pairs == [(("a", 10), ("b", None)), (("a", 10), ("a", 10))]


def test_a_report_is_made_while_only_teachers_are_trained(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    records = Path(__file__).parents[2] / "results" / "digits"
    for file in records.glob("teacher-*.json"):
        shutil.copy(file, tmp_path / "digits")
    told = provenance(records_of(load_experiment("digits"), tmp_path))
    assert told.startswith("3 records of")
    assert "student with" not in told


def test_a_rate_is_of_data_as_the_teacher_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd_colour.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))\n"
    )
    torch.save({"1.weight": torch.randn(10, 192), "1.bias": torch.zeros(10)}, "w.pt")
    made = ["teacher", "import", "odd_colour.py:build@w.pt", "--shape", "3", "8", "8", "--out", "teacher"]
    assert main(made) == 0
    one_percent = ["--data.name", "digits-colour", "--rate", "1", "--method", "noise"]
    assert main(["synthesize", "teacher", *one_percent, "--out", "set", "--quiet"]) == 0
    assert len(TransferSet(Path("set"))) == 52
