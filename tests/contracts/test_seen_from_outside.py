"""What strangers met who only used the commands and read the pages."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zskd.cli.main import main as run
from zskd.config.sizes import Share
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.types import PerSample
from zskd.evaluation.sanity import check_teacher
from zskd.experiment.record import read_record, record_path, write_record
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.narrow.changes import apply_changes, find_changes
from zskd.models.narrow.copies import copy_teacher
from zskd.run.verify import verify_folder
from zskd.synthesis.inversion.objective import (
    CrossEntropy,
    ForwardPass,
    Objective,
    SquaredPixels,
    Term,
    as_objective,
    divergence_and_gradient,
    objective_value,
)

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.parametrize("mark", ["card.json", "manifest.json"])
def test_a_folder_in_the_place_of_a_card_is_named(mark: str, tmp_path: Path) -> None:
    (tmp_path / "run" / mark).mkdir(parents=True)
    for folder in (tmp_path / "run", tmp_path):
        with pytest.raises(ZskdError, match=rf"{mark} is no file"):
            verify_folder(folder)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "name: no",
            "--name is False: it should not be true or false, but another value; in YAML, a text",
        ),
        ("distill: {steps: yes}", "--distill.steps is True: it should not be true or false, but a number"),
        ("seed: 1:30:00", "'1:30:00' is a number to the base 60"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_is_meant_is_told(
    text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert run(["run", str(tmp_path / "mine.yaml"), "--print-config"]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert line in told
    (tmp_path / "mine.yaml").write_text('name: "1:30:00"')
    assert run(["run", str(tmp_path / "mine.yaml"), "--print-config"]) == 0


def test_one_term_is_an_objective_and_anything_else_is_told() -> None:
    assert (
        as_objective(CrossEntropy())
        == as_objective(1 * CrossEntropy())
        == Objective(((1.0, CrossEntropy()),))
    )
    with pytest.raises(ZskdError, match=r"the objective of the method is None: return a sum of terms"):
        as_objective(None)


class Bright(Term):
    """The mean of a whole batch, where one value for each image is asked for."""

    def __call__(self, forward: ForwardPass) -> PerSample:
        return forward.images.mean()


def test_a_term_with_one_value_for_a_whole_batch_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    teacher = Classifier(network, spec=InputSpec(shape=(1, 4, 4))).freeze()
    images, targets = torch.rand(5, 1, 4, 4), torch.full((5, 3), 1 / 3)
    config = SynthesisConfig()
    assert objective_value(teacher, 1 * CrossEntropy(), images, targets, config) > 0
    with pytest.raises(ZskdError, match=r"the term Bright returned .*\(\): it must return one .* \(5,\)"):
        objective_value(teacher, 1 * CrossEntropy() + 3 * Bright(), images, targets, config)


def test_records_of_other_settings_are_told_beside_their_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.yaml").write_text("name: own\nlike: bench-colour-resnet8\n")
    record = read_record(record_path(RESULTS, "bench-colour-resnet8", "default-40-0"))
    own = record.model_copy(update={"experiment": "own"})
    write_record(record_path(tmp_path, "own", own.cell), own)
    asked = ["report", str(tmp_path / "own.yaml"), "--results", str(tmp_path), "--format", "csv"]
    assert run(asked) == 0
    assert capsys.readouterr().err == ""
    (tmp_path / "own.yaml").write_text(
        "name: own\nlike: bench-colour-resnet8\nsettings: {distill: {steps: 999}}\n"
    )
    assert run(asked) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 1 records were made with other settings than own has now" in line
    assert line.endswith("default-40-0")


def block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())


class Returning(nn.Module):
    """Returns its features beside its class scores, as networks for distillation do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = block(3, 16), block(16, 32), nn.Linear(32, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        first = self.first(images)
        second = self.second(first)
        return self.last(second.mean((2, 3))), {"features": [first, second]}


class Tied(nn.Module):
    """Two names for its last layer, and for a block."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = block(3, 16), nn.Linear(16, 4)
        self.all, self.head = nn.Sequential(self.first, block(16, 16)), self.fc

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.all(images).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Returning, Tied])
def test_a_network_with_more_outputs_or_names_gets_a_narrower_copy_that_is_loaded_again(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    teacher = Classifier(kind(), spec=InputSpec(shape=(3, 16, 16))).freeze()
    made = copy_teacher(teacher, Share("narrow", 0.5))
    whole, left = (sum(one.numel() for one in net.parameters()) for net in (teacher.module, made.network))
    assert left < 0.7 * whole
    again = apply_changes(kind(), find_changes(teacher.module, made.network))
    again.load_state_dict(made.network.state_dict())
    images, read = torch.randn(3, 3, 16, 16), teacher.returned.values
    answers = [read(network.eval()(images), 3) for network in (made.network, again)]
    assert torch.equal(*answers)


class WithoutGradient(nn.Sequential):
    """Rounds its images, or runs without gradients."""

    def __init__(self, rounded: bool) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))
        self.rounded = rounded

    def forward(self, images: Tensor) -> Tensor:
        if self.rounded:
            return super().forward((images * 255).round() / 255)
        with torch.no_grad():
            return super().forward(images)


def test_a_teacher_without_gradients_is_told_before_any_work() -> None:
    spec = InputSpec(shape=(1, 4, 4))
    for rounded in (True, False):
        teacher = Classifier(WithoutGradient(rounded), spec=spec).freeze()
        assert any(one.text.startswith("no gradient of the teacher") for one in check_teacher(teacher))
        images, targets = torch.rand(2, 1, 4, 4), torch.full((2, 3), 1 / 3)
        both, active = CrossEntropy() + 1.0 * SquaredPixels(), torch.ones(2, dtype=torch.bool)
        asked = (teacher, both, images, targets, None, active, SynthesisConfig())
        if rounded:  # the gradient is there, and zero
            divergence_and_gradient(*asked)
            continue
        with pytest.raises(ZskdError, match="no gradient reaches the images"):
            divergence_and_gradient(*asked)
    usual = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), spec=spec).freeze()
    assert not any("gradient" in one.text for one in check_teacher(usual))
