"""Networks of ONNX files as teachers: how their inputs and heads are read, and what is exported of them."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from zskd.export.onnx import export_onnx
from zskd.export.pt2 import export_pt2
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.libraries.onnx import ConvertedOnnx
from zskd.models.narrow.copies import narrow

SPEC = InputSpec(shape=(3, 8, 8))
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Mean(nn.Module):
    """Takes the mean over positions: its axes are a tensor of the file."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("smaller", [False, True])
def test_axes_that_the_file_holds_as_tensors_are_exported_again(smaller: bool, tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    torch.onnx.export(Mean().eval(), (IMAGES[:1],), path, dynamo=False, opset_version=18)
    teacher = Classifier(ConvertedOnnx(path.read_bytes(), "old.onnx"), spec=SPEC)
    assert torch.int64 in {value.dtype for value in teacher.module.buffers()}  # checkpoints hold the axes
    network = narrow(teacher) if smaller else teacher
    expected = network(IMAGES).detach()
    export_onnx(network, tmp_path / "new.onnx")
    (found,) = onnxruntime.InferenceSession(tmp_path / "new.onnx").run(None, {"images": IMAGES.numpy()})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    export_pt2(network, tmp_path / "new.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "new.pt2").module()(IMAGES), expected)
