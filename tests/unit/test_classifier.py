import pytest
import torch
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec

SPEC = InputSpec(shape=(1, 8, 8))


class Functional(nn.Module):
    """Layers defined out of order and two linear ones of the same width."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, 5)
        self.aside = nn.Linear(12, 5)
        self.first = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.flatten(1)).relu()
        return self.last(hidden + 0 * self.aside(hidden).sum())


class WithSoftmax(Functional):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=1)


class TwoOutputs(Functional):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        hidden = self.first(x.flatten(1)).relu()
        return self.last(hidden), self.aside(hidden)


def test_the_head_is_the_layer_whose_output_is_returned() -> None:
    module = Functional()
    classifier = Classifier(module, spec=SPEC)
    assert classifier.head_name == "last"
    assert classifier.classes == 5
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(classifier(x), module(x))
    features = classifier.features(x)
    torch.testing.assert_close(module.last(features), classifier(x))


def test_of_two_possible_heads_one_is_asked_for_with_its_candidates() -> None:
    with pytest.raises(ZskdError, match=r"candidates: last \(5 outputs\), aside \(5 outputs\)"):
        Classifier(TwoOutputs(), spec=SPEC)


def test_a_head_behind_a_softmax_is_found() -> None:
    module = WithSoftmax()
    classifier = Classifier(module, spec=SPEC)
    torch.testing.assert_close(classifier.head_weight, module.last.weight.detach())


@pytest.mark.parametrize("module", [WithSoftmax(), TwoOutputs()])
def test_a_named_head_gives_the_logits_behind_a_softmax(module: Functional) -> None:
    classifier = Classifier(module, spec=SPEC, head="last")
    x = torch.rand(3, 1, 8, 8)
    expected = module.last(module.first(x.flatten(1)).relu())
    torch.testing.assert_close(classifier(x), expected)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (nn.Conv2d(1, 4, 3), {}, r"returns a tensor of \(8, 4, 6, 6\), and not one row of class scores"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), {"class_names": ("a",)}, "1 class names for 2"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), {"class_names": ("a", "b")}, "2 class names for 3"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), {"head": "2"}, r"'2' is no linear layer.*1 \(3"),
        (nn.Sequential(nn.Flatten(), nn.Linear(50, 3)), {}, "cannot take an input of"),
        (nn.Conv2d(3, 4, 3), {}, "cannot take an input of"),
    ],
)
def test_unusable_networks_are_refused(module: nn.Module, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        Classifier(module, spec=SPEC, **arguments)  # type: ignore[arg-type]


def test_a_network_without_any_linear_layer_has_classes_but_no_class_vectors() -> None:
    classifier = Classifier(nn.Sequential(nn.Flatten(), nn.ReLU()), spec=SPEC)
    assert (classifier.classes, classifier.head_name) == (64, None)
    with pytest.raises(ZskdError, match="no linear layer of the network.*candidates: none"):
        classifier.head_weight  # noqa: B018


def test_normalisation_belongs_to_the_wrapper() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    spec = InputSpec(shape=(3, 2, 2), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    x = torch.rand(2, 3, 2, 2)
    by_hand = torch.stack(
        [(x[:, c] - m) / s for c, (m, s) in enumerate(zip(spec.mean, spec.std, strict=True))], 1
    )
    torch.testing.assert_close(Classifier(module, spec=spec)(x), module(by_hand))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (0, 8, 8)}, "at least 1"),
        ({"shape": (3, 8, 8), "mean": (0.1, 0.2)}, "2 values for 3 channels"),
        ({"std": (0.0,)}, "above 0"),
        ({"box": (0.5, 0.5)}, "two increasing numbers"),
        ({"box": (0.0, 255.0)}, "inside"),
    ],
)
def test_impossible_inputs_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ZskdError, match=message):
        InputSpec(**arguments)  # type: ignore[arg-type]


def test_the_fingerprint_sees_weights_and_input() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    first = Classifier(module, spec=SPEC).fingerprint()
    assert first == Classifier(module, spec=SPEC).fingerprint()
    other_input = InputSpec(shape=(1, 8, 8), mean=(0.1,))
    assert first != Classifier(module, spec=other_input).fingerprint()
    with torch.no_grad():
        module[1].weight[0, 0] += 1
    assert first != Classifier(module, spec=SPEC).fingerprint()


def test_channels_lie_last_unless_the_network_reshapes_by_view() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(144, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).view(x.size(0), -1))

    viewing = Classifier(Viewing(), spec=SPEC)
    assert viewing.module.conv.weight.is_contiguous()
    assert viewing(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    flattening = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    classifier = Classifier(flattening, spec=InputSpec(shape=(2, 8, 8)))
    assert classifier.module[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore
    assert flattening[0].weight.is_contiguous()
    assert classifier(torch.rand(2, 2, 8, 8)).shape == (2, 3)
