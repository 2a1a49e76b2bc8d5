"""Methods that read batch-norm statistics: against plain loops with torch's Adam, and what they refuse."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.cli.main import main
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.core.errors import ZskdError
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe, fresh_weights
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.inversion.initial import draw_initial
from zskd.synthesis.methods.base import make_method
from zskd.synthesis.plan import PlanEntry
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.manifest import read_manifest

SHAPE = (1, 16, 16)
STEPS = SynthesisConfig(
    start="uniform",
    steps=4,
    tolerance=0.0,
    noise_share=0.0,
    tau=2.0,
    learning_rate=0.02,
    batch_size=6,
    shard_size=6,
    pixels="free",
)


def stored(folder: Path, seed: int, *, classes: int = 4, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    """A small network with batch-norm as a checkpoint in a folder."""
    architecture = describe("resnet8(width=0.25)", shape=shape, classes=classes)
    network = fresh_weights(lambda: build(architecture, run_code=False), seed)
    rng = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(0.3 * torch.randn(layer.num_features, generator=rng))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=rng))
    made = Classifier(network, spec=InputSpec(shape=shape, mean=(0.4,), std=(0.3,))).freeze()
    save_checkpoint(made, Card(architecture=architecture), folder)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Classifier:
    return stored(folder / "teacher", 0)


@pytest.fixture(scope="module")
def student(folder: Path) -> Classifier:
    return stored(folder / "student", 1)


def spec_of(method: str, count: int = 6, **settings: object) -> SetSpec:
    still = replace(STEPS, warp=replace(STEPS.warp, rotation=0.0, scale=(1.0, 1.0), shift=0.0, shear=0.0))
    return SetSpec(
        method=method,
        method_settings=settings,
        count=count,
        targets=TargetsConfig(redraws=3, concentration_floor=0.05),
        synthesis=still,
    )


def plain_loss(teacher: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy at τ = 2, 0.5 of the statistics, and 3 of the mean absolute difference."""
    distances: list[Tensor] = []

    def read(layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        distances.append((mean - layer.running_mean).norm() + (var - layer.running_var).norm())

    layers = [one for one in teacher.module.modules() if isinstance(one, nn.BatchNorm2d)]
    hooks = [one.register_forward_pre_hook(read) for one in layers]
    logits = teacher.module((images - 0.4) / 0.3)
    for hook in hooks:
        hook.remove()
    assert len(distances) == len(layers) == 7
    across, down = images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]
    # as many pairs across as down
    variation = (across.abs().mean() + down.abs().mean()) / 2
    return F.cross_entropy(logits / 2.0, targets) + 0.5 * torch.stack(distances).sum() + 3 * variation


def plain_images(loss: Callable[[Tensor], Tensor]) -> Tensor:
    images = draw_initial("uniform", range(6), seed=0, shape=SHAPE, box=(0.0, 1.0)).requires_grad_()
    adam = torch.optim.Adam([images], lr=0.02)
    for _ in range(4):
        adam.zero_grad()
        (6 * loss(images)).backward()
        adam.step()
    return images.detach().clamp(0, 1)


def check_same(images: Tensor, plain: Tensor) -> None:
    """From noise: where neighbours are equal, rounding decides the sign of a difference, and Adam follows."""
    assert float((images - plain).abs().max()) < 1e-5


WEIGHTS = {"statistics": 0.5, "variation": 3.0}


def test_deepinversion_is_a_plain_loop(teacher: Classifier) -> None:
    targets = F.one_hot(torch.arange(6) % 4, 4).float()
    made = make_shard(teacher, spec_of("deepinversion", **WEIGHTS), 0)
    assert torch.equal(made.targets, targets)
    check_same(made.images, plain_images(lambda x: plain_loss(teacher, x, targets)))


def test_zskd_bn_has_the_targets_of_zskd_and_the_loop_of_deepinversion(teacher: Classifier) -> None:
    made = make_shard(teacher, spec_of("zskd_bn", **WEIGHTS), 0)
    zskd = make_shard(teacher, replace(spec_of("zskd"), seed=0), 0)
    assert torch.equal(made.targets, zskd.targets)
    assert torch.equal(made.anchors, zskd.anchors)
    check_same(made.images, plain_images(lambda x: plain_loss(teacher, x, made.targets)))


def test_adi_adds_the_disagreement_with_the_student(
    teacher: Classifier, student: Classifier, folder: Path
) -> None:
    targets = F.one_hot(torch.arange(6) % 4, 4).float()
    settings = {"student": str(folder / "student"), "competition": 5.0, "competition_tau": 1.5}

    def loss(x: Tensor) -> Tensor:
        p, q = ((one((x - 0.4) / 0.3) / 1.5).softmax(1) for one in (teacher.module, student.module))
        middle = (p + q) / 2
        js = ((p * (p / middle).log()).sum(1) + (q * (q / middle).log()).sum(1)) / 2
        return plain_loss(teacher, x, targets) + 5.0 * (1 - js).mean()

    made = make_shard(teacher, spec_of("adi", **WEIGHTS, **settings), 0)
    check_same(made.images, plain_images(loss))
    alone = make_shard(teacher, spec_of("deepinversion", **WEIGHTS), 0)
    assert float((made.images - alone.images).abs().max()) > 0.01


def test_the_students_hash_is_part_of_the_set(
    teacher: Classifier, student: Classifier, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "student"
    stored(own, 1)
    spec = spec_of("adi", student=str(own))
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    assert made.manifest.files == {"student": student.fingerprint()}
    film = ["show", "filmstrip", str(folder / "teacher"), str(tmp_path / "set"), "--out"]
    assert main([*film, str(tmp_path / "film.png")]) == 0
    assert (tmp_path / "film.png").is_file()
    stored(own, 2)
    with pytest.raises(ZskdError, match=r"made with another files\.student"):
        build_transfer_set(teacher, spec, tmp_path / "set")
    assert main([*film, str(tmp_path / "again.png")]) == 2
    assert "was made with another student" in capsys.readouterr().err
    # the other methods read nothing else, and their manifests are as before
    plain = build_transfer_set(teacher, spec_of("zskd"), tmp_path / "plain")
    assert plain.manifest.files is None
    text = (tmp_path / "plain" / "manifest.json").read_text(encoding="utf-8")
    assert '"files"' not in text
    assert '"coupled"' not in text
    assert read_manifest(tmp_path / "set").files is not None


def test_a_student_that_does_not_fit_is_refused_in_one_line(teacher: Classifier, tmp_path: Path) -> None:
    stored(tmp_path / "classes", 1, classes=5)
    stored(tmp_path / "shape", 1, shape=(1, 20, 20))
    wrong = {
        "classes": "has 5 classes, and the teacher 4: give a student",
        "shape": r"takes images of 1×20×20, and the teacher of 1×16×16",
        "nothing": "is not a checkpoint folder",
    }
    for name, message in wrong.items():
        with pytest.raises(ZskdError, match=message) as caught:
            build_transfer_set(teacher, spec_of("adi", student=str(tmp_path / name)), tmp_path / "set")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()
    with pytest.raises(ZskdError, match="give its checkpoint folder as --method-settings.student FOLDER"):
        make_method("adi", {})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("statistics", -1), ("variation", -1), ("first_layer", -1), ("momentum", 1.0), ("scale", "none")],
)
def test_settings_outside_their_range_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ZskdError, match=f"--method-settings.{setting.replace('_', '-')} is"):
        make_method("deepinversion", {setting: value})


def test_a_tolerance_is_refused(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match="--synthesis.tolerance must be 0 with --method deepinversion"):
        replace(spec_of("deepinversion"), synthesis=replace(STEPS, tolerance=0.1))


def test_the_plan_gives_the_classes(teacher: Classifier) -> None:
    entries = [PlanEntry(index=i, anchor=i % 4, beta=1.0, optimised=True) for i in range(6)]
    found = make_method("deepinversion", {}).targets(teacher, entries, TargetsConfig(), seed=0)
    assert found.argmax(1).tolist() == [0, 1, 2, 3, 0, 1]
