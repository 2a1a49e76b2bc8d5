"""Teachers as people write them, from the weights to the student: what each kind once stumbled over."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.rng import torch_stream
from zskd.core.tensors import read_tensors, save_tensors
from zskd.distillation.architecture import copy_student
from zskd.distillation.initialisation.chain import initialise_chain
from zskd.distillation.initialisation.elimination import divergence
from zskd.distillation.initialisation.graph import initialise_copy
from zskd.distillation.initialisation.rows import all_patches
from zskd.models.batch_statistics import reading_statistics
from zskd.models.chain import read_layers
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.deployed import deployed
from zskd.models.factory import half
from zskd.models.narrow.copies import narrow
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.teacher.golden import check_golden
from zskd.teacher.weights.matching import fit_weights
from zskd.teacher.weights.reading import read_weights

SPEC = InputSpec(shape=(1, 8, 8))


def frozen(module: nn.Module, spec: InputSpec = SPEC) -> Classifier:
    return Classifier(module.eval(), spec=spec).freeze()


def images(count: int = 40, spec: InputSpec = SPEC) -> Tensor:
    return torch.rand(count, *spec.shape, generator=torch.Generator().manual_seed(1))


def lenet(*, width: int = 6, outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, outputs))


def begun(teacher: Classifier, student: nn.Module) -> Classifier:
    """Return a student that is begun with the weights of its teacher, or fail."""
    made = frozen(student, teacher.spec)
    assert initialise_chain(teacher, made, lambda: images(60, teacher.spec), torch_stream(0, "test", 0))
    return made


def test_a_layer_of_two_names_is_saved_under_both(tmp_path: Path) -> None:
    listed = nn.Module()
    listed.conv, listed.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
    listed.block = nn.Sequential(listed.conv, listed.norm)
    state = listed.state_dict()
    save_tensors(state, tmp_path / "net.safetensors")
    found = read_tensors(tmp_path / "net.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    "first",
    [
        [nn.Conv2d(1, 6, 4, stride=4), nn.BatchNorm2d(6), nn.ReLU()],
        [nn.Conv2d(1, 6, 2, padding=1), nn.MaxPool2d(2), nn.ReLU()],
    ],
)
def test_a_first_kernel_of_even_size_is_deployed(first: list[nn.Module]) -> None:
    torch.manual_seed(0)
    width = nn.Sequential(*copy.deepcopy(first), nn.Flatten())(images()).shape[1]
    made = frozen(nn.Sequential(*first, nn.Flatten(), nn.Linear(width, 3)))
    torch.testing.assert_close(deployed(made)(images()), made(images()), rtol=1e-4, atol=1e-5)


class Reshaped(nn.Module):
    """Takes rows of pixels, too, as the first network of many tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x.view(-1, 1, 8, 8))).flatten(1))


class Written(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.conv(x).relu(), 1))


def test_a_reshape_to_images_is_no_flatten() -> None:
    teacher = frozen(Reshaped())
    with pytest.raises(ZskdError, match="it reshapes its values at 'view'"):
        read_layers(teacher.module)
    student = frozen(Reshaped())
    assert not initialise_chain(teacher, student, images, torch_stream(0, "test", 0))
    assert [name for name, _ in read_layers(Written())] == ["Conv2d", "ReLU", "Flatten", "Linear"]


def test_a_batch_norm_of_single_pixels_is_cut_with_their_channels() -> None:
    torch.manual_seed(0)
    body = [nn.BatchNorm2d(1), nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(6 * 36)]
    network = nn.Sequential(*body, nn.Linear(6 * 36, 3))
    network(torch.rand(20, 1, 8, 8))  # statistics of its own
    teacher = frozen(network)
    smaller = half(teacher.module)
    assert [layer.num_features for layer in smaller if hasattr(layer, "num_features")] == [1, 3 * 36]
    student = begun(teacher, smaller)
    kept = student.module.get_submodule("4")
    assert isinstance(kept, nn.BatchNorm1d)
    of_teacher = teacher.module.get_submodule("4").running_mean.view(6, 36)
    chosen = [row.tolist() for row in kept.running_mean.view(3, 36)]
    assert all(row in of_teacher.tolist() for row in chosen)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_weights_that_are_computed_are_copied_and_never_written() -> None:
    torch.manual_seed(0)
    plain = lenet()
    normed = copy.deepcopy(plain)
    nn.utils.weight_norm(normed[0])
    normed[0].weight_g.data *= 3
    teacher = frozen(normed)
    own = begun(teacher, lenet(width=3))
    with torch.no_grad():
        plain[0].weight.copy_(3 * plain[0].weight)
    same = begun(frozen(plain), lenet(width=3))
    for name, value in own.module.state_dict().items():
        torch.testing.assert_close(value, same.module.state_dict()[name], rtol=1e-3, atol=1e-4)
    student = lenet(width=3)
    nn.utils.weight_norm(student[0])
    made = frozen(student)
    before = {name: value.clone() for name, value in made.module.state_dict().items()}
    assert not initialise_chain(teacher, made, images, torch_stream(0, "test", 0))
    assert all(torch.equal(value, before[name]) for name, value in made.module.state_dict().items())


def test_one_output_tells_channels_apart() -> None:
    z = torch.tensor([[0.5], [-2.0]])
    assert divergence(z, z) == 0
    assert divergence(z, -z) > 0.1
    # the same choice as for the same answers in two logits
    one = lenet(outputs=1)
    two = copy.deepcopy(one)
    two[3] = nn.Linear(6 * 36, 2)
    with torch.no_grad():
        two[3].weight.copy_(torch.cat([-one[3].weight, one[3].weight]) / 2)
        two[3].bias.copy_(torch.cat([-one[3].bias, one[3].bias]) / 2)
    students = [begun(frozen(one), lenet(width=3, outputs=1)), begun(frozen(two), lenet(width=3, outputs=2))]
    torch.testing.assert_close(students[0](images()), students[1](images()), rtol=1e-2, atol=1e-3)


class WithTable(nn.Module):
    """A branch whose input is a constant table, as the relative positions of a transformer of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.register_buffer("table", torch.linspace(-1, 1, 12).view(6, 2))
        self.first, self.second = nn.Linear(2, 16), nn.Linear(16, 1)
        self.fc = nn.Linear(8 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        shift = self.second(F.relu(self.first(self.table)))
        return self.fc((self.norm(self.conv(x)).relu() + shift.view(1, 1, 1, 6)).flatten(1))


@pytest.mark.parametrize(
    ("build", "shape"),
    [(WithTable, (1, 8, 8)), (lambda: pooled(), (1, 512, 512))],
    ids=["table", "large images"],
)
def test_copies_are_begun_with_the_weights_of_their_teacher(
    build: object, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    spec = InputSpec(shape=shape)
    teacher = frozen(build(), spec)  # type: ignore[operator]
    student = frozen(narrow(teacher.module, 0.95, shape=shape), spec)
    count = 40 if shape[1] == 8 else 10
    done = initialise_copy(teacher, student, lambda: images(count, spec), torch_stream(0, "test", 0))
    assert done is not None


def pooled() -> nn.Module:
    """Ends in a batch-norm of one value for each channel and image; it branches."""

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.more = nn.Conv2d(1, 8, 16, stride=16), nn.Conv2d(8, 8, 1)
            self.norm, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.fc(self.norm((x + self.more(x.relu())).mean((2, 3))))

    return Pooled()


class OfTokens(nn.Module):
    """Its batch-norm is given the tokens of all images as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.fc = nn.Conv2d(1, 4, 2, stride=2), nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(tokens.flatten(0, 1)).view_as(tokens).mean(1))


def test_statistics_are_those_of_the_images_that_count_also_for_tokens() -> None:
    teacher, given = frozen(OfTokens()), images(8)
    with reading_statistics(teacher, torch.arange(3)) as some:
        teacher(given)
    with reading_statistics(teacher) as alone:
        teacher(given[:3])
    assert some[0].count == alone[0].count == 3 * 16
    torch.testing.assert_close(some[0].mean, alone[0].mean)
    torch.testing.assert_close(some[0].var, alone[0].var)


def test_a_copy_of_a_written_chain_is_a_classifier() -> None:
    smaller = narrow(Classifier(Written().eval(), spec=SPEC), 0.5)
    assert isinstance(smaller, Classifier)
    assert smaller.head_weight.shape[0] == 3
    assert smaller(images()).shape == (40, 3)


@pytest.mark.parametrize("end", ["one logit", "one sigmoid", "softmax", "log-softmax"])
@pytest.mark.parametrize("recorded", ["what it returns", "logits"])
def test_golden_pairs_hold_what_the_network_returns_or_its_logits(
    end: str, recorded: str, tmp_path: Path
) -> None:
    ends = {"one logit": nn.Identity(), "one sigmoid": nn.Sigmoid(), "softmax": nn.Softmax(1)}
    body = lenet(outputs=1 if end.startswith("one") else 3)
    body[3].weight.data *= 10
    network = nn.Sequential(*body, ends.get(end, nn.LogSoftmax(1)))
    with torch.no_grad():
        values = (network if recorded == "what it returns" else body)(images())
    np.savez(tmp_path / "golden.npz", inputs=images().numpy(), logits=values.numpy())
    assert check_golden(frozen(network), tmp_path / "golden.npz").pairs == 40
    np.savez(tmp_path / "other.npz", inputs=images().numpy(), logits=values.flip(0).numpy())
    with pytest.raises(ZskdError, match="the network disagrees with the golden pairs"):
        check_golden(frozen(network), tmp_path / "other.npz")


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, width))


class Transformer(nn.Module):
    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(1, width, 2, stride=2), Attention(width, heads)
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(x + self.attention(x)).mean(1))


def test_a_copy_with_a_single_head_is_begun_with_the_weights_of_its_teacher() -> None:
    torch.manual_seed(0)
    teacher = frozen(Transformer())
    student = frozen(narrow(teacher.module, 0.6, "width", shape=SPEC.shape))
    assert [one.num_heads for one in student.module.modules() if isinstance(one, Attention)] == [1]
    assert initialise_copy(teacher, student, images, torch_stream(0, "test", 0)) is not None


class Auxiliary(nn.Module):
    """Returns a second answer in training mode, as GoogLeNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc, self.other = nn.Linear(64, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> object:
        x = self.body(x.flatten(1)).relu()
        return (self.fc(x), self.other(x)) if self.training else self.fc(x)


def test_further_answers_in_training_mode_are_left() -> None:
    made = Classifier(Auxiliary().eval(), spec=SPEC)
    expected = made(images())
    torch.testing.assert_close(made.train()(images()), expected)


class Scaled(nn.Module):
    """The layer that was named, and a scale behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 30 * self.fc(self.conv(x).relu().flatten(1)).tanh()


class Tasks(nn.Module):
    """Answers for two tasks, told apart by their numbers of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8 * 36, 5), nn.Linear(8 * 36, 3)

    def forward(self, x: Tensor) -> object:
        x = self.conv(x).relu().flatten(1)
        return self.other(x), self.fc(x)


@pytest.mark.parametrize(
    ("build", "given"), [(Scaled, {"head": "fc"}), (Tasks, {"class_names": tuple("abc")})]
)
def test_a_copy_is_read_as_its_teacher(build: type[nn.Module], given: dict[str, object]) -> None:
    torch.manual_seed(0)
    teacher = Classifier(build().eval(), spec=SPEC, **given).freeze()  # type: ignore[arg-type]
    same = copy_student(teacher, copy.deepcopy(teacher.module))
    torch.testing.assert_close(same(images()), teacher(images()))


class WithoutGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 3)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


def test_a_teacher_without_gradients_is_told_in_a_line() -> None:
    spec = SetSpec(method="class_impressions", count=4, synthesis=SynthesisConfig(steps=2, batch_size=4))
    with pytest.raises(ZskdError, match="no gradient reaches the images"):
        make_shard(frozen(WithoutGradient()), spec, 0)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_layers_are_fitted_on_what_they_receive(mode: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode=mode)
    given = torch.rand(4, 2, 6, 6)
    patches = all_patches(layer, given)
    made = torch.einsum("nchwij,ocij->nohw", patches, layer.weight) + layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(made, layer(given))


def test_the_average_of_mmengine_is_the_state_dict(tmp_path: Path) -> None:
    averaged, raw = lenet().state_dict(), lenet().state_dict()
    raw = {f"module.{name}": value + 1 for name, value in raw.items()} | {"steps": torch.tensor(7)}
    torch.save({"state_dict": averaged, "ema_state_dict": raw}, tmp_path / "epoch_5.pth")
    fitted = fit_weights(lenet(), read_weights(tmp_path / "epoch_5.pth"))
    assert fitted.taken == "state_dict"
    assert torch.equal(fitted.tensors["0.weight"], averaged["0.weight"])
