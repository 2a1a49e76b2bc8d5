"""Logits and class vectors are right, whatever a network returns and however its last layer is written."""

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from zskd.cli.main import main as run
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.observation import observe
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.similarity import class_similarity
from zskd.synthesis.spec import SetSpec

SPEC = InputSpec(shape=(2, 8, 8), mean=(0.4,), std=(0.3,))
K, D = 5, 6


class Body(nn.Module):
    """A few layers before the head: (N, 2, 8, 8) → maps (N, D, 4, 4), and their means (N, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, D, 3, stride=2, padding=1)
        self.hidden = nn.Linear(D, 64)
        self.back = nn.Linear(64, D)

    def maps(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()

    def mean(self, x: Tensor) -> Tensor:
        return self.back(self.hidden(self.maps(x).mean((2, 3))).tanh())


class WithLinear(Body):
    width = K

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(D, self.width)

    def forward(self, x: Tensor) -> object:
        return self.end(self.fc(self.mean(x)))

    def end(self, z: Tensor) -> object:
        return z


class Plain(WithLinear):
    pass


class Tuple(WithLinear):
    def forward(self, x: Tensor) -> object:
        features = self.mean(x)
        return self.fc(features), features


class FeaturesFirst(WithLinear):
    def forward(self, x: Tensor) -> object:
        features = self.mean(x)
        return [features, self.fc(features), self.maps(x)]


class Mapping(WithLinear):
    def forward(self, x: Tensor) -> object:
        return {"loss": torch.zeros(()), "scores": self.fc(self.mean(x))}


@dataclass
class Answer:
    hidden: Tensor
    logits: Tensor


class Object(WithLinear):
    def forward(self, x: Tensor) -> object:
        return Answer(self.mean(x), self.fc(self.mean(x)))


class LikeTransformers(WithLinear):
    """An ordered dictionary with attributes, as the outputs of transformers are."""

    def forward(self, x: Tensor, labels: Tensor | None = None, return_dict: bool = True) -> object:
        logits = self.fc(self.mean(x))
        if labels is not None:
            raise ValueError("no labels were given")
        return OrderedDict(hidden_states=(x,), logits=logits) if return_dict else (logits,)


class Softmax(WithLinear):
    def end(self, z: Tensor) -> object:
        return z.softmax(1)


class SoftmaxByHand(WithLinear):
    def end(self, z: Tensor) -> object:
        return z.exp() / z.exp().sum(1, keepdim=True)


class LogSoftmax(WithLinear):
    def end(self, z: Tensor) -> object:
        return F.log_softmax(z, 1)


class Temperature(WithLinear):
    def end(self, z: Tensor) -> object:
        return z / 2.5


class Maps(WithLinear):
    def end(self, z: Tensor) -> object:
        return z[:, :, None, None]


class Sigmoids(WithLinear):
    def end(self, z: Tensor) -> object:
        return 1 / (1 + torch.exp(-z))


class OneLogit(WithLinear):
    width = 1


class OneLogitFlat(OneLogit):
    def end(self, z: Tensor) -> object:
        return z.squeeze(1)


class OneSigmoid(OneLogit):
    def end(self, z: Tensor) -> object:
        return z.sigmoid()


class ConvAfter(Body):
    """A 1×1 convolution after the pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(D, K, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.maps(x), 1)).flatten(1)


class ConvMap(ConvAfter):
    """… returned as (N, K, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.maps(x), 1))


class ConvBefore(ConvAfter):
    """A 1×1 convolution before the pooling."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.fc(self.maps(x)), 1).flatten(1)


class ConvReLU(ConvAfter):
    """The end of SqueezeNet: convolution, ReLU, pooling."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.uniform_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu_(self.fc(self.maps(x))), 1).flatten(1)


class ConvWhole(Body):
    """A convolution as large as its input, as in LeNet-5's C5."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(D, K, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x)).flatten(1)


class WeightNorm(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.parametrizations.weight_norm(self.fc)


class OldWeightNorm(WithLinear):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.utils.weight_norm(self.fc)  # type: ignore[no-untyped-call]


class Cosine(Body):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(K, D))
        self.scale = nn.Parameter(torch.tensor(7.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(self.mean(x)), F.normalize(self.weight))


class Functional(Body):
    """A parameter of the network's own that is used by `F.linear`, `@` or `einsum`."""

    def __init__(self, how: str = "linear") -> None:
        super().__init__()
        self.how, self.table, self.offset = how, nn.Parameter(torch.randn(K, D)), nn.Parameter(torch.rand(K))

    def forward(self, x: Tensor) -> Tensor:
        features = self.mean(x)
        if self.how == "linear":
            return F.linear(features, self.table, self.offset)
        if self.how == "matmul":
            return features @ self.table.t() + self.offset
        return torch.einsum("nd,kd->nk", features, self.table) + self.offset


class Tokens(WithLinear):
    """The last layer scores each position; the mean of the scores is returned."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.maps(x).flatten(2).transpose(1, 2)).mean(1)


class NormAfter(WithLinear):
    """A batch-norm after the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(K)
        self.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        self.norm.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]

    def end(self, z: Tensor) -> object:
        return self.norm(z)


class TwoHeads(WithLinear):
    """A distilled DeiT in evaluation mode: the mean of two heads with features of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(64, K)

    def forward(self, x: Tensor) -> object:
        hidden = self.hidden(self.maps(x).mean((2, 3))).tanh()
        return (self.fc(self.back(hidden)) + self.other(hidden)) / 2


class Distances(Body):
    """Scores by distances from prototypes: no linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(K, D))

    def forward(self, x: Tensor) -> Tensor:
        return -(self.mean(x)[:, None] - self.prototypes).abs().sum(2)


def made(build: Callable[[], nn.Module], **arguments: object) -> Classifier:
    return Classifier(fresh_weights(build, 0).eval(), spec=SPEC, **arguments).freeze()  # type: ignore[arg-type]


def images(count: int = 7) -> Tensor:
    return torch.rand(count, *SPEC.shape, generator=torch.Generator().manual_seed(1))


def answer(classifier: Classifier, x: Tensor) -> object:
    return classifier.module(classifier.normalise(x))


def scores(classifier: Classifier, x: Tensor) -> Tensor:
    """The output of the last layer by hand."""
    module = classifier.module
    assert isinstance(module, WithLinear)
    return module.fc(module.mean(classifier.normalise(x)))


AS_THEY_ARE = [
    Tuple,
    FeaturesFirst,
    Mapping,
    Object,
    LikeTransformers,
    Plain,
    Maps,
    WeightNorm,
    OldWeightNorm,
]


@pytest.mark.parametrize("build", AS_THEY_ARE)
def test_logits_are_found_in_what_a_network_returns(build: type[WithLinear]) -> None:
    classifier = made(build)
    torch.testing.assert_close(classifier(images()), scores(classifier, images()))
    assert classifier.classes == K
    assert "logits" in classifier.output


@pytest.mark.parametrize("build", [Softmax, SoftmaxByHand, LogSoftmax])
def test_probabilities_become_their_logarithm(build: type[WithLinear]) -> None:
    classifier = made(build)
    expected = scores(classifier, images()).log_softmax(1)
    torch.testing.assert_close(classifier(images()), expected, rtol=1e-4, atol=1e-5)
    assert "probabilities" in classifier.output


def test_probabilities_that_round_to_zero_have_finite_logits_and_gradients() -> None:
    module = fresh_weights(Softmax, 0)
    with torch.no_grad():
        module.fc.weight.mul_(1e4)
    classifier = Classifier(module, spec=SPEC).freeze()
    x = images().requires_grad_(True)
    logits = classifier(x)
    assert bool((logits < -80).any())
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert bool(torch.isfinite(logits).all())
    assert bool(torch.isfinite(gradient).all())


def test_a_temperature_is_part_of_the_network() -> None:
    classifier = made(Temperature)
    torch.testing.assert_close(classifier(images()), scores(classifier, images()) / 2.5)
    torch.testing.assert_close(classifier.head_weight, classifier.module.fc.weight / 2.5)  # type: ignore


def test_sigmoids_of_several_classes_become_their_log_odds() -> None:
    classifier = made(Sigmoids)
    torch.testing.assert_close(classifier(images()), scores(classifier, images()), rtol=1e-4, atol=1e-5)
    assert classifier.returned.multi_label
    assert "multi-label" in classifier.output


@pytest.mark.parametrize("build", [OneLogit, OneLogitFlat, OneSigmoid])
def test_one_output_becomes_two_classes(build: type[WithLinear]) -> None:
    classifier = made(build, class_names=("no", "yes"))
    z = scores(classifier, images())[:, 0]
    logits = classifier(images())
    torch.testing.assert_close(logits.softmax(1)[:, 1], z.sigmoid())
    torch.testing.assert_close(logits.sum(1), torch.zeros(7))
    assert not classifier.returned.multi_label
    assert float(class_similarity(classifier.head_weight)[0, 1]) == pytest.approx(-1)
    with pytest.raises(ZskdError, match="3 class names for 2 classes"):
        made(build, class_names=("a", "b", "c"))


def test_logits_that_lie_between_0_and_1_are_logits() -> None:
    class Small(WithLinear):
        width = 3

        def end(self, z: Tensor) -> object:
            return 0.5 + 0.1 * z.tanh()

    classifier = made(Small)
    torch.testing.assert_close(classifier(images()), answer(classifier, images()))
    assert classifier.output == "logits"


HEADS = [
    (Plain, "fc"),
    (Tuple, "fc"),
    (FeaturesFirst, "fc"),
    (LikeTransformers, "fc"),
    (Softmax, "fc"),
    (SoftmaxByHand, "fc"),
    (LogSoftmax, "fc"),
    (Temperature, "fc"),
    (Sigmoids, "fc"),
    (OneLogit, "fc"),
    (OneLogitFlat, "fc"),
    (OneSigmoid, "fc"),
    (ConvAfter, "fc"),
    (ConvMap, "fc"),
    (ConvBefore, "fc"),
    (ConvWhole, "fc"),
    (WeightNorm, "fc"),
    (OldWeightNorm, "fc"),
    (Cosine, "weight"),
    (Functional, "table"),
    (lambda: Functional("matmul"), "table"),
    (lambda: Functional("einsum"), "table"),
    (Tokens, "fc"),
    (NormAfter, "fc"),
]


@pytest.mark.parametrize(("build", "name"), HEADS)
def test_class_vectors_and_features_give_the_logits_again(build: Callable[[], nn.Module], name: str) -> None:
    """The definition of a head: softmax(W f + b) is the softmax of the logits, for images not seen before."""
    classifier = made(build)
    head = classifier.find_head()
    assert not isinstance(head, ZskdError)
    assert head.name == name
    assert head.weight.shape == (classifier.classes, head.size[1] or head.weight.shape[1])
    features, logits = classifier.features(images()), classifier(images())
    again = features @ classifier.head_weight.T + classifier.head_bias
    torch.testing.assert_close(again.softmax(1), logits.softmax(1), rtol=1e-3, atol=1e-4)


def test_the_features_before_a_pooling_with_a_relu_still_have_class_vectors() -> None:
    classifier = made(ConvReLU)
    torch.testing.assert_close(classifier.head_weight, classifier.module.fc.weight.flatten(1))  # type: ignore
    expected = classifier.module.maps(classifier.normalise(images())).mean((2, 3))  # type: ignore
    torch.testing.assert_close(classifier.features(images()), expected)


def test_the_scale_of_a_cosine_classifier_is_part_of_its_class_vectors() -> None:
    classifier = made(Cosine)
    torch.testing.assert_close(classifier.head_weight.norm(dim=1), torch.full((K,), 7.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(classifier.features(images()).norm(dim=1), torch.ones(7))


@pytest.mark.parametrize("build", [ConvBefore, Cosine, Softmax, OldWeightNorm, Functional])
def test_class_vectors_follow_the_weights(build: Callable[[], nn.Module]) -> None:
    classifier = made(build)
    before = classifier.head_weight
    with torch.no_grad():
        for value in classifier.module.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(2)))
    after = classifier.head_weight
    assert not torch.equal(before, after)
    again = classifier.features(images()) @ after.T + classifier.head_bias
    torch.testing.assert_close(again.softmax(1), classifier(images()).softmax(1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("build", [ConvBefore, Cosine, Plain, Tuple, Softmax, OneSigmoid])
def test_gradients_reach_the_images_through_logits_and_features(build: Callable[[], nn.Module]) -> None:
    classifier, x = made(build), images().requires_grad_(True)
    seen = observe(classifier, x)
    torch.testing.assert_close(seen.logits, classifier(x))
    torch.testing.assert_close(seen.features, classifier.features(x))
    for value in (seen.logits.square().sum(), seen.features.square().sum()):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert float(gradient.abs().max()) > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in classifier.module.modules())


@pytest.mark.parametrize("build", [TwoHeads, Distances])
def test_a_network_without_a_head_is_refused_only_where_one_is_needed(
    build: type[Body], tmp_path: Path
) -> None:
    teacher = made(build)
    torch.testing.assert_close(teacher(images()), answer(teacher, images()))
    with pytest.raises(ZskdError, match=r"alone determines its output.*candidates: ") as error:
        teacher.head_weight  # noqa: B018
    assert "\n" not in str(error.value)
    for read in (lambda: teacher.features(images()), lambda: observe(teacher, images()).features):
        with pytest.raises(ZskdError, match="alone determines its output"):
            read()
    spec = SetSpec(count=10, synthesis=SynthesisConfig(steps=2, batch_size=5))
    with pytest.raises(ZskdError, match="alone determines its output"):
        build_transfer_set(teacher, spec, tmp_path / "zskd")
    assert not (tmp_path / "zskd").exists()
    for method in ("noise", "class_impressions"):
        own = SetSpec(method=method, count=10, synthesis=spec.synthesis)
        assert len(make_shard(teacher, own, 0)) == 10


@pytest.mark.parametrize(
    ("build", "head", "message"),
    [
        (Plain, "hidden", r"'hidden' has 64 outputs and the network 5; candidates: fc \(5 outputs\)"),
        (Plain, "nothing", r"'nothing' is no linear layer of the network; candidates: fc"),
        (TwoHeads, "fc", r"not computed from the head 'fc' alone; candidates: fc .*other"),
        (TwoHeads, "other", "not computed from the head 'other' alone"),
    ],
)
def test_another_layer_does_not_pass_as_the_head(build: type[Body], head: str, message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        made(build, head=head)


@pytest.mark.parametrize("build", [Softmax, LogSoftmax, Sigmoids, OneSigmoid, OneLogit, Temperature])
def test_a_named_linear_layer_gives_its_own_output(build: type[WithLinear]) -> None:
    classifier = made(build, head="fc")
    expected = scores(classifier, images())
    if expected.shape[1] == 1:
        expected = torch.cat([-expected / 2, expected / 2], 1)
    torch.testing.assert_close(classifier(images()), expected)
    assert "layer fc" in classifier.output


@pytest.mark.parametrize("build", [ConvBefore, Cosine, Tokens, Tuple])
def test_a_head_of_another_kind_can_be_named(build: Callable[[], nn.Module]) -> None:
    name = "weight" if build is Cosine else "fc"
    classifier = made(build, head=name)
    torch.testing.assert_close(classifier(images()), made(build)(images()))
    torch.testing.assert_close(classifier.head_weight, made(build).head_weight)


class TwoAnswers(TwoHeads):
    def forward(self, x: Tensor) -> object:
        hidden = self.hidden(self.maps(x).mean((2, 3))).tanh()
        return self.fc(self.back(hidden)), self.other(hidden)


def test_of_two_answers_the_head_is_asked_for() -> None:
    with pytest.raises(
        ZskdError, match=r"name its head; candidates: fc \(5 outputs\), other \(5 outputs\)"
    ) as told:
        made(TwoAnswers)
    assert str(told.value).endswith("take one with --head")
    one, other = made(TwoAnswers, head="fc"), made(TwoAnswers, head="other")
    both = answer(one, images())
    assert isinstance(both, tuple)
    torch.testing.assert_close(one(images()), both[0])
    torch.testing.assert_close(other(images()), both[1])


def test_the_number_of_class_names_tells_two_answers_apart() -> None:
    class Tasks(WithLinear):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(D, 3)

        def forward(self, x: Tensor) -> object:
            return self.other(self.mean(x)), self.fc(self.mean(x))

    classifier = made(Tasks, class_names=tuple("abcde"))
    torch.testing.assert_close(classifier(images()), scores(classifier, images()))


@pytest.mark.parametrize("build", [Softmax, ConvBefore, OldWeightNorm, Mapping, OneSigmoid, Distances])
def test_a_copy_by_pickle_reads_the_same(build: type[Body]) -> None:
    classifier = made(build)
    copied = pickle.loads(pickle.dumps(classifier))
    assert torch.equal(copied(images()), classifier(images()))
    assert copied.fingerprint() == classifier.fingerprint()
    assert (copied.head_name, copied.output) == (classifier.head_name, classifier.output)


def test_a_network_of_maps_is_no_classifier() -> None:
    with pytest.raises(ZskdError, match=r"returns a tensor of \(8, 6, 4, 4\), and not one row"):
        made(lambda: nn.Sequential(nn.Conv2d(2, D, 3, stride=2, padding=1)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_single(kind: torch.dtype) -> None:
    module = fresh_weights(Plain, 0).to(kind)
    classifier = Classifier(module, spec=SPEC)
    assert classifier(images()).dtype == torch.float32
    assert module.fc.weight.dtype == kind


def test_weights_that_float32_cannot_hold_are_refused() -> None:
    module = fresh_weights(Plain, 0).double()
    with torch.no_grad():
        module.fc.weight[0, 0] = 1e300
    with pytest.raises(ZskdError, match=r"fc\.weight holds values that float32 cannot hold"):
        Classifier(module, spec=SPEC)


def test_optional_arguments_have_their_defaults_when_layers_are_fused() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(2, D, 3), nn.BatchNorm2d(D), nn.Linear(36 * D, K)

        def forward(self, x: Tensor, mask: Tensor | None = None, *, twice: bool = False) -> Tensor:
            x = self.norm(self.conv(x)).relu()
            if mask is not None:
                x = x * mask
            return self.fc(x.flatten(1)) * (2 if twice else 1)

    classifier = made(Optional)
    assert classifier.merged == ("conv",)
    torch.testing.assert_close(classifier(images()), answer(classifier, images()))


def test_torchscript_networks_have_heads_too() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 9), nn.ReLU(), nn.Linear(9, 4), nn.Softmax(1))
    script = torch.jit.script(net.eval())  # type: ignore[no-untyped-call]
    classifier = Classifier(script, spec=SPEC, copy=False).freeze()
    torch.testing.assert_close(classifier.head_weight, net[3].weight.detach())


CODE = """
from torch import nn
class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 8, 5, 2), nn.AdaptiveMaxPool2d(4)
        self.a, self.b = nn.Linear(128, 10), nn.Linear(128, 10)
    def forward(self, x, extra=None):
        x = self.pool(self.conv(x)).flatten(1)
        return {"logits": (self.a(x.relu()) + self.b(x.tanh())) / 2}
class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 5, 2), nn.Conv2d(4, 10, 1)
    def forward(self, x):
        return self.last(self.conv(x).relu()).mean((2, 3)).log_softmax(1)
"""


def test_a_run_from_a_teacher_without_a_head_to_a_student_without_a_linear_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("headless.py").write_text(CODE)
    space: dict[str, type[nn.Module]] = {}
    exec(CODE, space)
    save_file(fresh_weights(space["Teacher"], 0).state_dict(), "net.safetensors")
    command = ["run", "my-teacher", "--teacher.path", "net.safetensors", "--model", "headless.py:Teacher"]
    command += ["--student", "headless.py:Student", "--count", "20", "--held-out", "10", "--controls", "none"]
    command += ["--distill.steps", "2", "--synthesis.steps", "2", "--workers", "1", "--quiet", "--out", "r"]
    assert run([*command]) == 2
    assert "candidates: a (10 outputs), b (10 outputs)" in capsys.readouterr().err
    assert not Path("r/teacher").exists()
    assert run([*command, "--method", "class_impressions"]) == 0
    assert json.loads(Path("r/teacher/card.json").read_text())["head"] is None
    assert "optimised, " in Path("r/README.md").read_text()
    capsys.readouterr()
    assert run(["inspect", "r/teacher", "--model", "headless.py:Teacher"]) == 0
    told = capsys.readouterr().out
    assert "head          none" in told
    assert "note: no linear layer of the network alone determines its output" in told


def test_of_a_network_that_runs_image_by_image_is_told_why_it_has_no_head() -> None:
    class EachAlone(WithLinear):
        def forward(self, x: Tensor) -> object:
            return torch.cat([super(EachAlone, self).forward(one) for one in x.split(1)])

    found = made(EachAlone).find_head()
    assert isinstance(found, ZskdError)
    assert "the layer 'fc' runs for a part of the images at a time" in str(found)
