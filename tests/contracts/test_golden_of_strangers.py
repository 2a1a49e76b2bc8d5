"""Golden pairs and messages for networks as strangers have them: several outputs, fixed batches."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.output import answer_of
from zskd.teacher.golden import check_golden
from zskd.teacher.named.facts import Given
from zskd.teacher.named.source import parse_source
from zskd.teacher.opening import find_network

SPEC = InputSpec(shape=(1, 4, 4))
FORMS: dict[str, Any] = {
    "a tuple": lambda scores, features: (scores, {"features": features}),
    "features first": lambda scores, features: (features, scores),
    "a dictionary": lambda scores, features: {"cls_score": scores},
    "an object": lambda scores, features: SimpleNamespace(loss=None, logits=scores),
}
ENDS: dict[str, Any] = {
    "logits": nn.Identity(),
    "probabilities": nn.Softmax(1),
    "one logit": nn.Flatten(0),  # (N,)
    "one sigmoid": nn.Sequential(nn.Sigmoid(), nn.Flatten(0)),
    "a last convolution": nn.Unflatten(1, (3, 1, 1)),  # (N, K, 1, 1)
}


class Several(nn.Module):
    """Returns its class scores in one of several forms."""

    def __init__(self, end: str, form: str | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 6, 2)
        self.fc = nn.Linear(6, 1 if end.startswith("one") else 3)
        self.fc.weight.data *= 10
        self.end, self.form = ENDS[end], form

    def logits(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))

    def forward(self, x: Tensor) -> Any:
        features = self.conv(x).relu().mean((2, 3))
        scores = self.end(self.fc(features))
        return FORMS[self.form](scores, features) if self.form else scores


def compared(network: Several, recorded: Tensor, path: Path) -> None:
    """Compare with recorded values, and with those of other images, which must not agree."""
    teacher, inputs = Classifier(network.eval(), spec=SPEC), pictures()
    np.savez(path / "golden.npz", inputs=inputs, logits=recorded.detach())
    assert check_golden(teacher, path / "golden.npz").pairs == len(inputs)
    np.savez(path / "other.npz", inputs=inputs, logits=recorded.detach().flip(0))
    with pytest.raises(ZskdError, match="disagrees with the golden pairs"):
        check_golden(teacher, path / "other.npz")


def pictures() -> Tensor:
    return torch.rand(20, *SPEC.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("end", ["logits", "probabilities", "one logit", "one sigmoid"])
@pytest.mark.parametrize("form", FORMS)
def test_golden_pairs_fit_a_network_that_returns_more_than_its_scores(
    form: str, end: str, tmp_path: Path
) -> None:
    network = Several(end, form)
    compared(network, network.logits(pictures()), tmp_path)
    compared(network, Several(end)(pictures()), tmp_path)


@pytest.mark.parametrize("end", ["one logit", "one sigmoid", "a last convolution"])
def test_golden_pairs_are_read_in_the_shape_that_the_network_returns(end: str, tmp_path: Path) -> None:
    network = Several(end)
    assert network(pictures()).ndim != 2
    compared(network, network(pictures()), tmp_path)


def test_golden_pairs_of_no_class_scores_are_described(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", inputs=pictures(), logits=torch.zeros(20, 4, 3))
    with pytest.raises(ZskdError, match=r"it holds \(20, 1, 4, 4\) and \(20, 4, 3\)"):
        check_golden(Classifier(Several("logits"), spec=SPEC), tmp_path / "golden.npz")


@pytest.mark.parametrize(("count", "works"), [(1, True), (2, False)])
def test_an_onnx_file_that_hides_its_fixed_batch_is_tried_quietly(
    count: int, works: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its input takes any number of images, and a token of each image is held as so many copies."""
    values = {"t": np.ones((count, 1, 4, 4)), "w": np.ones((32, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["x", "t"], ["j"], axis=1),
            helper.make_node("Flatten", ["j"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(one.astype(np.float32), name) for name, one in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    if works:
        found = find_network(parse_source(str(path)), Given())
        assert found.module(pictures()).shape == (20, 3)
    else:
        with pytest.raises(ZskdError, match="onnxruntime cannot run .*: export it again with one image"):
            find_network(parse_source(str(path)), Given())
    assert capfd.readouterr() == ("", "")


class ForOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 1:
            raise ValueError("one image only")
        return x.flatten(1)


class OfTasks(nn.Module):
    def forward(self, x: Tensor, task: int) -> Tensor:
        return x.flatten(1) + task


@pytest.mark.parametrize(
    ("network", "cause"),
    [
        (ForOne(), "one image only"),
        (OfTasks(), "argument: 'task'"),
        (nn.Linear(5, 3), "be multiplied"),
    ],
)
def test_advice_on_a_refused_input_is_true_whatever_the_cause(network: nn.Module, cause: str) -> None:
    words = rf"{cause}.*: check --shape .*nothing but a batch \(N, 1, 4, 4\) of float32"
    with pytest.raises(ZskdError, match=words):
        answer_of(network, pictures())
