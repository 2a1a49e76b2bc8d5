"""What a user names of a network (its name, its box) holds, or is refused, wherever it is opened."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zskd.cli.main import main as run
from zskd.cli.pairs import check_models
from zskd.config.identity import identity
from zskd.config.loading import load_recipe
from zskd.config.training import NetworkConfig
from zskd.core.errors import ZskdError
from zskd.export.hub import export_hf
from zskd.export.onnx import export_onnx
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import build, describe
from zskd.report.run import report_run
from zskd.run.metrics import METRICS
from zskd.teacher.opening import open_teacher
from zskd.teacher.sources import input_spec

SHAPE = (1, 16, 16)


def saved(name: str, folder: Path) -> Path:
    torch.manual_seed(0)
    architecture = describe(name, shape=SHAPE, classes=3)
    network = Classifier(build(architecture, run_code=False), spec=InputSpec(shape=SHAPE))
    return save_checkpoint(network, Card(architecture=architecture), folder)


@pytest.mark.parametrize("name", ["mlp", "timm:resnet18", "no_network"])
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "A"),
        ("evaluate", "A", "--teacher", "A"),
        ("predict", "A", "a.png"),
        ("export", "A", "--to", "pt2", "--out", "a.pt2"),
        ("show", "similarity", "A"),
        ("show", "filmstrip", "A", "set"),
        ("check", "A", "pictures", "--teacher", "A"),
        ("audit", "A", "--members", "pictures", "--others", "pictures"),
    ],
    ids=" ".join,
)
def test_a_network_of_no_checkpoint_that_is_opened_is_refused(
    words: tuple[str, ...],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(saved("lenet5", tmp_path / "a"))
    assert run([folder if word == "A" else word for word in words] + ["--model", name]) == 2
    told = f"zskd: error: {folder} is a checkpoint of lenet5: leave out --model {name}\n"
    assert capsys.readouterr().err == told


def test_a_network_that_is_named_for_two_is_that_of_one(tmp_path: Path) -> None:
    lenet, mlp, weights = saved("lenet5", tmp_path / "a"), saved("mlp", tmp_path / "b"), Path("w.pt")
    for name in ("lenet5", "mlp", "of_another.py:build"):
        check_models(name, None, lenet, teacher=mlp)
    check_models("resnet8", None, lenet, teacher=weights)  # that of the weights
    check_models(None, "mlp", lenet, teacher=mlp)
    for name, of_teacher, option in (("mlp", "mlp", "--model mlp"), (None, "vgg8", "--teacher-model vgg8")):
        with pytest.raises(ZskdError, match=f"leave out {option}$"):
            check_models(name, of_teacher, lenet, teacher=mlp)
    with pytest.raises(ZskdError, match="names its network: leave out --model mlp$"):
        check_models("mlp", None, tmp_path / "a.onnx", teacher=None)
    with pytest.raises(ZskdError, match="is a checkpoint of lenet5: leave out --model hf:folder$"):
        check_models("hf:folder", None, lenet, teacher=None)


def test_the_page_of_a_run_refuses_a_network_that_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / METRICS).touch()
    (tmp_path / "recipe.yaml").write_text("data: {name: none}\n")
    arms = SimpleNamespace(arms=[SimpleNamespace(arm="zskd")])
    monkeypatch.setattr("zskd.report.run.read_metrics", lambda _: arms)
    saved("lenet5", tmp_path / "teacher"), saved("mlp", tmp_path / "students/zskd")
    with pytest.raises(ZskdError, match=r"teacher is a checkpoint of lenet5: leave out --teacher-model mlp$"):
        report_run(tmp_path, teacher_model="mlp")
    with pytest.raises(ZskdError, match=r"zskd is a checkpoint of mlp: leave out --student-model lenet5$"):
        report_run(tmp_path, teacher_model="lenet5", student_model="lenet5")


@pytest.mark.parametrize(
    ("name", "form"), [("lenet5", "hf"), ("timm:test_resnet(in_chans=1)", "hf"), ("lenet5", "onnx")]
)
def test_an_exported_network_keeps_its_box(name: str, form: str, tmp_path: Path) -> None:
    for box in ((0.1, 0.9), (0.0, 1.0)):
        spec, file = InputSpec(shape=SHAPE, mean=(0.2,), box=box), tmp_path / f"{box[0]}.{form}"
        architecture = describe(name, shape=SHAPE, classes=3)
        network = Classifier(build(architecture, run_code=False), spec=spec).freeze()
        if form == "hf":
            export_hf(network, Card(architecture=architecture), file)
        else:
            export_onnx(network, file)
        opened, card = open_teacher(file)
        assert opened.spec.box == box
        assert ("box" in (card.origin.facts or {})) == (box != (0.0, 1.0))
        assert open_teacher(file, box=(0.0, 1.0))[0].spec.box == (0.0, 1.0)


def test_the_box_of_a_run_is_that_of_its_teacher_or_0_and_1() -> None:
    absent, told = (
        identity(load_recipe("my-teacher", {"teacher": one})) for one in ({}, {"box": [0.0, 1.0]})
    )
    assert absent == told
    assert absent["teacher"]["box"] == [0.0, 1.0]
    assert input_spec(NetworkConfig()).box == (0.0, 1.0)
