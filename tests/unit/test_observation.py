"""One run of a network, seen from inside: compared with running its layers by hand."""

import pytest
import torch
from torch import Tensor, nn

from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.networks.lenet import lenet5_bn
from zskd.models.observation import observe

SPEC = InputSpec(shape=(1, 8, 8), mean=(0.3,), std=(0.5,))


def images(count: int = 3, size: int = 8) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))


class InPlace(nn.Module):
    """A network that changes its layers' inputs and outputs in place and uses a layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(72, 4)
        self.fails = False

    def forward(self, pixels: Tensor) -> Tensor:
        values = self.first(pixels).tanh_()
        for _ in range(2):
            values = self.again(values).tanh_()
        if self.fails:
            raise ValueError("inside")
        return self.head(values.flatten(1)).mul_(2)


@pytest.fixture
def network() -> Classifier:
    return Classifier(fresh_weights(InPlace, 0), spec=SPEC, head="head").freeze()


def test_values_are_those_of_the_moment_although_layers_work_in_place(network: Classifier) -> None:
    module = network.module
    left = [module.first((images() - 0.3) / 0.5)]
    for _ in range(2):
        left.append(module.again(left[-1].tanh()))
    entered = [(images() - 0.3) / 0.5, *(value.tanh() for value in left[:-1])]

    inputs = observe(network, images(), inputs_of=(nn.Conv2d,))
    outputs = observe(network, images(), outputs_of=(nn.Conv2d,))
    for seen, by_hand in ((inputs, entered), (outputs, left)):
        assert [layer.name for layer in seen.layers] == ["first", "again", "again"]
        assert [layer.layer for layer in seen.layers] == [module.first, module.again, module.again]
        for layer, value in zip(seen.layers, by_hand, strict=True):
            torch.testing.assert_close(layer.value, value)
        torch.testing.assert_close(seen.features, left[-1].tanh().flatten(1))
        torch.testing.assert_close(seen.logits, module.head(seen.features))


def test_a_rewritten_network_is_run_as_written_only_where_layers_are_asked_for() -> None:
    classifier = Classifier(fresh_weights(lenet5_bn, 0)).freeze()
    assert classifier.merged == ("conv0", "conv1")
    quick = classifier(images(size=32))
    classifier.rewrite = False
    written = classifier(images(size=32))
    assert not torch.equal(quick, written)
    classifier.rewrite = True

    plain = observe(classifier, images(size=32))
    assert torch.equal(plain.logits, quick)
    assert plain.layers == ()
    torch.testing.assert_close(plain.features, classifier.features(images(size=32)))
    inside = observe(classifier, images(size=32), inputs_of=(nn.BatchNorm2d,))
    assert torch.equal(inside.logits, written)
    torch.testing.assert_close(inside.layers[0].value, classifier.module.conv0(images(size=32)))
    assert classifier.rewrite


def test_gradients_reach_the_images_through_all_that_is_seen(network: Classifier) -> None:
    leaf = images().requires_grad_(True)
    seen = observe(network, leaf, outputs_of=(nn.Conv2d,))
    for value in (seen.logits, seen.features, *(layer.value for layer in seen.layers)):
        (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
        assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("rewrite", [True, False])
def test_no_hook_stays_behind_an_exception(network: Classifier, rewrite: bool) -> None:
    network.rewrite = rewrite
    assert isinstance(network.module, InPlace)
    network.module.fails = True
    with pytest.raises(ValueError, match="inside"):
        observe(network, images(), inputs_of=(nn.Conv2d,), outputs_of=(nn.Conv2d, nn.Linear))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())
    assert network.rewrite is rewrite
