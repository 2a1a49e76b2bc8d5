"""Right networks of many kinds raise no warning; each wrong one raises the right one, before work begins."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.cli.main import main as run
from zskd.config.distillation import DistillConfig
from zskd.config.registry import ARCHITECTURES
from zskd.config.training import TeacherConfig
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.data.datasets import Dataset, Split
from zskd.distillation.distill import distill
from zskd.distillation.objective import Objective
from zskd.evaluation.inspection import inspect_teacher
from zskd.evaluation.sanity import check_teacher, log_findings
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.modes import frozen
from zskd.teacher.training import train_teacher
from zskd.transfer_set.dataset import TransferSet

SHAPE = (1, 16, 16)


class Stem(nn.Module):
    """A convolution, a part of its own, and a linear head."""

    def __init__(self, middle: nn.Module, channels: int = 1, width: int = 256) -> None:
        super().__init__()
        self.conv, self.middle = nn.Conv2d(channels, 16, 3, 2, 1), middle
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_max_pool2d(self.middle(self.conv(x)), 4).flatten(1))


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.squeeze(x.mean((2, 3))).relu()).sigmoid()
        return (x * gate[:, :, None, None]).relu()


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grow(x.relu())], 1).relu()


class TinyTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, 32))
        self.block = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
        self.norm, self.fc = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.fc(self.norm(self.block(tokens)).mean(1))


class Ending(nn.Module):
    """A plain network with another end."""

    def __init__(self, end: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.end = stem(nn.ReLU()), end

    def forward(self, x: Tensor) -> object:
        return self.end(self.net(x))


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.weight = stem(nn.ReLU()), nn.Parameter(torch.randn(10, 10))

    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(self.body(x)), F.normalize(self.weight))


def stem(middle: nn.Module, channels: int = 1, width: int = 256) -> Stem:
    return Stem(middle, channels, width)


def as_tuple(z: Tensor) -> object:
    return z, z.exp()


def convolutional_end() -> nn.Module:
    layers = [nn.Conv2d(1, 32, 4, 4), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 4), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 10, 1))


def batch_norm() -> nn.Module:
    return stem(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))


def depthwise() -> nn.Module:
    layers = [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1)]
    return stem(nn.Sequential(*layers, nn.ReLU()))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))


RIGHT: dict[str, tuple[Callable[[], nn.Module], InputSpec]] = {
    "batch norm": (batch_norm, InputSpec(shape=SHAPE)),
    "batch norm, normalised": (batch_norm, InputSpec(shape=SHAPE, mean=(0.2,), std=(0.3,))),
    "group norm": (lambda: stem(nn.Sequential(nn.GroupNorm(4, 16), nn.ReLU())), InputSpec(shape=SHAPE)),
    "layer norm": (TinyTransformer, InputSpec(shape=SHAPE)),
    "instance norm": (lambda: stem(nn.Sequential(nn.InstanceNorm2d(16), nn.ReLU())), InputSpec(shape=SHAPE)),
    "depthwise": (depthwise, InputSpec(shape=SHAPE)),
    "squeeze and excite": (lambda: stem(SqueezeExcite()), InputSpec(shape=SHAPE)),
    "dense": (lambda: stem(Dense(), width=512), InputSpec(shape=SHAPE)),
    "perceptron with dropout": (perceptron, InputSpec(shape=SHAPE)),
    "tuple": (lambda: Ending(as_tuple), InputSpec(shape=SHAPE)),
    "log-softmax": (lambda: Ending(lambda z: z.log_softmax(1)), InputSpec(shape=SHAPE)),
    "softmax": (lambda: Ending(lambda z: z.softmax(1)), InputSpec(shape=SHAPE)),
    "cosine": (Cosine, InputSpec(shape=SHAPE)),
    "1×1 convolution": (convolutional_end, InputSpec(shape=SHAPE)),
    "colour, 0 to 255": (
        lambda: stem(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()), 3),
        InputSpec(shape=(3, 16, 16), std=(1 / 255,)),
    ),
}


def small(digits: Dataset, channels: int) -> Dataset:
    def halved(split: Split) -> Split:
        return Split(F.avg_pool2d(split.images, 2).expand(-1, channels, -1, -1).contiguous(), split.labels)

    splits = {name: halved(getattr(digits, name)) for name in ("train", "validation", "test")}
    return replace(digits, **splits)


def trained(digits: Dataset, build: Callable[[], nn.Module], spec: InputSpec) -> Classifier:
    untrained = Classifier(fresh_weights(build, 0), spec=spec, copy=False)
    config = TeacherConfig(epochs=4, batch_size=32, learning_rate=5e-3)
    return train_teacher(untrained, small(digits, spec.shape[0]), config, seed=0)


def texts(teacher: Classifier) -> str:
    return "; ".join(finding.text for finding in check_teacher(teacher))


@pytest.mark.parametrize("name", list(RIGHT))
def test_a_right_network_raises_no_warning(name: str, digits: Dataset) -> None:
    teacher = trained(digits, *RIGHT[name])
    test = small(digits, teacher.spec.shape[0]).test
    with frozen(teacher), torch.no_grad():
        right = (teacher(test.images).argmax(1) == test.labels).float().mean()
    assert float(right) > 0.5, "the network must have learned something"
    assert texts(teacher) == ""


def test_lenet5_raises_no_warning(teacher: Classifier) -> None:
    assert texts(teacher) == ""


class DropoutAlways(Stem):
    def __init__(self) -> None:
        super().__init__(nn.ReLU(), width=256)
        self.wild = Wild()

    def forward(self, x: Tensor) -> Tensor:
        return self.wild(super().forward(x))


class Wild(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


def of(module: nn.Module, **spec: object) -> Classifier:
    return Classifier(module, spec=InputSpec(shape=SHAPE, **spec)).freeze()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def with_norm(digits: Dataset) -> Classifier:
    return trained(digits, *RIGHT["batch norm"])


def test_the_layer_that_draws_random_numbers_is_named() -> None:
    teacher = of(DropoutAlways())
    before = torch.random.get_rng_state()
    assert "depend on chance (layers wild), so that one seed" in texts(teacher)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", ["layer", "function"])
def test_the_layer_that_mixes_images_is_named(kind: str) -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, training=True)

    module = stem(nn.BatchNorm2d(16, track_running_stats=False) if kind == "layer" else Mixing())
    found = texts(of(module))
    assert "depend on the other images of its batch (layers middle)" in found
    assert "track_running_stats=True" in found


@pytest.mark.parametrize(("mean", "std"), [((0.0,), (1 / 255,)), ((0.5,), (0.02,)), ((0.0,), (20.0,))])
def test_a_normalisation_that_the_batch_norm_contradicts(
    with_norm: Classifier, mean: tuple[float], std: tuple[float]
) -> None:
    wrong = of(with_norm.module, mean=mean, std=std)
    assert f"the first batch-norm contradict mean {mean} and std {std}" in texts(wrong)
    assert "mean (0.0,) and std (1.0,) fit better" in texts(wrong)


def test_mean_and_std_of_pixels_up_to_255() -> None:
    found = texts(of(stem(nn.ReLU()), mean=(123.675,), std=(58.4,)))
    assert "pixels here are in [0, 1]: try mean 0.485 and std 0.229" in found


@pytest.mark.parametrize(("kind", "name"), [(torch.float16, "float16"), (torch.bfloat16, "bfloat16")])
def test_weights_in_half_precision(kind: torch.dtype, name: str) -> None:
    assert f"half precision ({name})" in texts(of(stem(nn.ReLU()).to(kind)))


def test_one_class_for_nearly_everything() -> None:
    module = stem(nn.ReLU())
    with torch.no_grad():
        module.fc.bias[7] = 100
    assert "gives class 7 to 100 % of random images: check mean" in texts(of(module))


def test_a_network_that_sees_nothing() -> None:
    module = stem(nn.ReLU())
    nn.init.zeros_(module.conv.weight)
    assert "all random images give the same logits" in texts(of(module))


def test_sigmoids_are_multi_label() -> None:
    found = texts(of(Ending(lambda z: z.sigmoid())))
    assert "multi-label: each of the 10 outputs is a probability of its own" in found


class Overflowing(Stem):
    """Not finite where the image is bright."""

    def __init__(self, above: float) -> None:
        super().__init__(nn.ReLU(), width=256)
        self.above = above

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / (x.mean((1, 2, 3)) < self.above)[:, None]


def test_answers_that_are_not_finite_are_told_and_refused_if_none_is() -> None:
    assert "logits that are not finite for" in texts(of(Overflowing(0.5)))
    log_findings(of(Overflowing(0.5)), Progress())
    everywhere = of(Overflowing(-1.0))
    with pytest.raises(ZskdError, match="not finite for 100 % of random images: check its weights"):
        log_findings(everywhere, Progress())
    assert any("not finite" in warning for warning in inspect_teacher(everywhere).warnings)


def test_nothing_of_the_teacher_changes(with_norm: Classifier) -> None:
    before = with_norm.fingerprint()
    with_norm.train()
    check_teacher(with_norm)
    assert all(layer.training for layer in with_norm.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in with_norm.modules())
    assert with_norm.fingerprint() == before
    with_norm.eval()


def test_a_student_that_diverges_by_its_teacher_says_so(teacher: Classifier, small_set: TransferSet) -> None:
    class Broken(type(teacher.module)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0

    broken = Classifier(teacher.module, spec=teacher.spec).freeze()
    broken.module.__class__ = Broken
    broken.rewrite = False
    with pytest.raises(ZskdError, match="distill: the loss is not finite at step 1 .*: the teacher's logits"):
        distill(broken, ARCHITECTURES.load("lenet5_half")(), small_set, DistillConfig(steps=2, batch_size=16))


def test_the_teacher_is_the_reason_at_the_step_of_the_loss_alone(teacher: Classifier) -> None:
    """Losses are read together; images that follow a broken student may break the teacher later."""
    objective = Objective(teacher, DistillConfig(), None, remember=3)
    images, labels = torch.rand(2, *teacher.spec.shape), torch.zeros(2, dtype=torch.int64)
    for value in (0.0, float("inf"), 0.0):
        objective.loss((images, torch.full((2, 10), value), labels))
    told = [objective.explain(ago) for ago in (2, 1, 0)]
    assert [one is None for one in told] == [True, False, True]


def test_the_commands_tell_before_they_work(
    teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    weights = load_file(teacher_folder / "model.safetensors")
    save_file(weights | {"fc2.bias": weights["fc2.bias"] + 1e3 * torch.eye(10)[3]}, "three.safetensors")
    given = ["--model", "lenet5", "--shape", "1", "32", "32"]
    assert run(["teacher", "import", "three.safetensors", "--out", "three", *given]) == 0
    assert run(["inspect", "three"]) == 0
    warning = "gives class 3 to 100 % of random images"
    assert f"note: the teacher {warning}" in capsys.readouterr().out
    assert (
        run(["synthesize", "three", "--count", "4", "--method", "noise", "--out", "set", "--workers", "1"])
        == 0
    )
    told = capsys.readouterr().err
    assert told.index(f"warning: the teacher {warning}") < told.index("noise: 4 images")
    command = ["distill", "three", "set", "--out", "student", "--student", "lenet5_small", "--no-estimate"]
    assert run([*command, "--workers", "1", "--distill.steps", "2", "--distill.start", "random"]) == 0
    assert f"warning: the teacher {warning}" in capsys.readouterr().err
