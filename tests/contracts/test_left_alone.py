"""What a caller lends is left alone: weights, layout, modes, gradients, hooks of networks, and torch's state.

The networks hold batch-norm and dropout, and their layers are in different modes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zskd.config.distillation import DistillConfig, GeneratorConfig, ImageBankConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.data.datasets import Split
from zskd.distillation.distill import distill
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.evaluation import probes as probes_module
from zskd.evaluation.agreement import estimate_agreement
from zskd.evaluation.inspection import count_multiply_adds, inspect_teacher
from zskd.evaluation.metrics import accuracy, accuracy_by_class, agreement, predict
from zskd.evaluation.probes import make_probes, measure
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.modes import frozen
from zskd.synthesis.build import build_transfer_set, seconds_per_image
from zskd.synthesis.real import build_real_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.similarity import class_similarity, concentration
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export import export_png

SPEC = InputSpec(shape=(1, 12, 12), mean=(0.4,), std=(0.3,))
SET = SetSpec(
    count=30,
    targets=TargetsConfig(redraws=3, concentration_floor=0.05),
    synthesis=SynthesisConfig(steps=4, batch_size=10, shard_size=20),
)
QUICK = DistillConfig(steps=4, batch_size=8, augment=AugmentConfig())
GENERATOR = GeneratorConfig(share=1.0, latent=4, width=4)
BANK = ImageBankConfig(share=0.5, count=2, images=8, keep=8, steps=2)


class Broken(Exception):
    """What a network of the user's raises."""


class Trap:
    """A hook that notes in which mode its layer is run, and may break."""

    def __init__(self) -> None:
        self.passes: int | None = None
        self.trained: list[bool] = []

    def __call__(self, layer: nn.Module, _inputs: Any, _output: Tensor) -> None:
        self.trained.append(layer.training or any(p.requires_grad for p in layer.parameters()))
        if self.passes is not None and len(self.trained) > self.passes:
            raise Broken


def layers(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3),
        nn.BatchNorm2d(width),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(16 * width, 4),
    )


def mixed(network: nn.Sequential) -> nn.Sequential:
    """Bring the layers of a network into different states."""
    network.train()
    network[1].eval()
    network[3].weight.requires_grad_(False)
    network[8].bias.grad = torch.ones(4)
    return network


def network(width: int, seed: int) -> nn.Sequential:
    return mixed(fresh_weights(lambda: layers(width), seed))


@dataclass
class Lent:
    """All that the caller lends, and where results go."""

    teacher: Classifier
    student: nn.Sequential
    finished: Classifier
    images: TransferSet
    split: Split
    folder: Path
    trap: Trap
    """Of the teacher."""
    students_trap: Trap


@pytest.fixture
def lent(tmp_path: Path) -> Lent:
    teacher, finished = (Classifier(network(8, seed), spec=SPEC) for seed in (0, 2))
    for classifier in (teacher, finished):
        mixed(classifier.module)  # type: ignore[arg-type]
    images = build_transfer_set(teacher, SET, tmp_path / "set")
    numbers = torch.Generator().manual_seed(0)
    split = Split(torch.rand(20, *SPEC.shape, generator=numbers), torch.arange(20) % 4)
    student, traps = network(4, 1), (Trap(), Trap())
    teacher.module[4].register_forward_hook(traps[0])  # type: ignore[index, operator]
    student[4].register_forward_hook(traps[1])
    return Lent(teacher, student, finished, images, split, tmp_path, *traps)


@pytest.fixture(autouse=True)
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes_module, "_IMPRESSIONS", 20)
    monkeypatch.setattr(probes_module, "_NOISE", 20)


def bits(tensor: Tensor | None) -> object:
    if tensor is None:
        return None
    return (
        tensor.detach().cpu().contiguous().numpy().tobytes(),
        tensor.stride(),
        tensor.data_ptr(),
        tensor.device,
    )


def state_of(module: nn.Module) -> dict[str, object]:
    """Everything of a network that a caller could miss."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "tensors": {name: bits(value) for name, value in module.state_dict().items()},
        "parameters": [(id(p), p.requires_grad, bits(p.grad)) for p in module.parameters()],
        "modes": [(name, id(layer), layer.training) for name, layer in module.named_modules()],
        "hooks": [{key: list(getattr(layer, key)) for key in hooks} for layer in module.modules()],
        "rewrite": getattr(module, "rewrite", None),
    }


def state_of_torch() -> dict[str, object]:
    """Everything global that a caller could miss; Python's own generator is moved by beartype in tests."""
    return {
        "rng": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def state(lent: Lent) -> dict[str, object]:
    networks = {"teacher": lent.teacher, "student": lent.student, "finished": lent.finished}
    pixels = {"images": lent.split.images, "labels": lent.split.labels}
    return (
        {name: state_of(module) for name, module in networks.items()}
        | {name: bits(tensor) for name, tensor in pixels.items()}
        | {"torch": state_of_torch()}
    )


def distilled(lent: Lent, **changes: Any) -> Classifier:
    images = None if changes.pop("alone", False) else lent.images
    return distill(lent.teacher, lent.student, images, replace(QUICK, **changes))


ASKING: dict[str, Callable[[Lent], object]] = {
    "distill": distilled,
    "distill, attention": lambda lent: distilled(lent, attention=1.0),
    "distill, generator": lambda lent: distilled(lent, alone=True, start="random", generator=GENERATOR),
    "distill, image bank": lambda lent: distilled(lent, image_bank=BANK),
    "initialise_from_teacher": lambda lent: initialise_from_teacher(lent.teacher, lent.student, lent.images),
    "build_transfer_set": lambda lent: build_transfer_set(lent.teacher, SET, lent.folder / "made"),
    "build_real_set": lambda lent: build_real_set(lent.teacher, lent.split, lent.folder / "real", count=20),
    "make_shard": lambda lent: make_shard(lent.teacher, SET, 0),
    "seconds_per_image": lambda lent: seconds_per_image(lent.teacher, SET),
    "trace_impression": lambda lent: trace_impression(lent.teacher, SET, 0),
    "export_png": lambda lent: export_png(lent.images, lent.teacher, lent.folder / "png"),
    "inspect_teacher": lambda lent: inspect_teacher(lent.teacher),
    "count_multiply_adds": lambda lent: count_multiply_adds(lent.teacher),
    "predict": lambda lent: predict(lent.teacher, lent.split.images),
    "accuracy": lambda lent: accuracy(lent.teacher, lent.split),
    "accuracy_by_class": lambda lent: accuracy_by_class(lent.teacher, lent.split),
    "agreement": lambda lent: agreement(lent.teacher, lent.finished, lent.split.images),
    "make_probes": lambda lent: make_probes(lent.teacher),
    "measure": lambda lent: measure(lent.teacher, lent.finished, make_probes(lent.teacher)),
    "estimate_agreement": lambda lent: estimate_agreement(lent.teacher, lent.finished),
}
"""Public functions that ask the teacher."""
OTHERS: dict[str, Callable[[Lent], object]] = {
    "Classifier": lambda lent: Classifier(lent.student, spec=SPEC),
    "Classifier, used": lambda lent: Classifier(lent.student, spec=SPEC).freeze().to("meta"),
    "class_similarity": lambda lent: concentration(class_similarity(lent.teacher.head_weight)),
    "fingerprint": lambda lent: lent.teacher.fingerprint(),
    "save_checkpoint": lambda lent: save_checkpoint(
        lent.folder / "saved", lent.teacher, Card(architecture={"factory": "none:none"})
    ),
    "pickle": lambda lent: pickle.dumps(lent.finished),
}


@pytest.mark.parametrize("name", [*ASKING, *OTHERS])
def test_everything_lent_comes_back_as_it_was(name: str, lent: Lent) -> None:
    before = state(lent)
    (ASKING | OTHERS)[name](lent)
    assert state(lent) == before
    assert bool(lent.trap.trained) == (name in ASKING)
    assert not any(lent.trap.trained), "the teacher was asked as it is trained"


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("name", ASKING)
def test_also_after_an_exception(name: str, passes: int, lent: Lent) -> None:
    lent.trap.passes = passes
    before = state(lent)
    try:
        ASKING[name](lent)
    except Broken:
        assert len(lent.trap.trained) == passes + 1
    else:  # it asks no more often
        assert 0 < len(lent.trap.trained) <= passes
    assert state(lent) == before


def test_also_after_an_exception_of_the_student(lent: Lent) -> None:
    lent.students_trap.passes = 0
    before = state(lent)
    with pytest.raises(ZskdError, match="cannot take an input"):
        Classifier(lent.student, spec=SPEC)
    with pytest.raises(ZskdError, match="cannot take an input"):
        distilled(lent)
    assert state(lent) == before


def test_the_networks_are_indeed_in_danger(lent: Lent) -> None:
    """The comparison can fail: the plain calls change what the functions above must not."""
    before = state(lent)
    lent.teacher(lent.split.images)  # batch-norm counts, dropout draws
    after = state(lent)
    assert after["teacher"] != before["teacher"]
    assert after["torch"] != before["torch"]
    layout = state_of(lent.student)
    Classifier(lent.student, spec=SPEC, copy=False)
    assert state_of(lent.student) != layout


def test_a_classifier_owns_its_network(lent: Lent) -> None:
    theirs = lent.student
    classifier = Classifier(theirs, spec=SPEC)
    assert classifier.layout == "channels_last"
    assert theirs[3].weight.is_contiguous()
    assert [layer.training for layer in classifier.module.modules()] == [m.training for m in theirs.modules()]
    assert [p.requires_grad for p in classifier.parameters()] == [
        p.requires_grad for p in theirs.parameters()
    ]
    known = classifier.fingerprint()
    with torch.no_grad():
        theirs[8].bias += 1
    assert classifier.fingerprint() == known
    own = network(4, 3)
    assert Classifier(own, spec=SPEC, copy=False).module is own


def test_what_draws_when_it_is_looked_at_does_not_move_the_callers_generator() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(144, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1) + torch.rand(()))

    module = fresh_weights(Noisy, 0)
    before = state_of_torch()
    Classifier(module, spec=SPEC)
    assert state_of_torch() == before


def test_a_network_that_cannot_be_copied_can_be_given() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    module.computed = module[1].weight * 2  # type: ignore[assignment, operator]
    with pytest.raises(ZskdError, match=r"cannot be copied.*Classifier\(network, copy=False\)"):
        Classifier(module, spec=SPEC)
    assert Classifier(module, spec=SPEC, copy=False).classes == 3


def test_the_callers_modes_do_not_change_what_is_made(lent: Lent) -> None:
    calm = Classifier(lent.teacher.module, spec=SPEC).freeze()
    assert calm.fingerprint() == lent.teacher.fingerprint()
    made = [make_shard(one, SET, 0).tensors() for one in (lent.teacher, calm)]
    assert all(torch.equal(values, made[1][name]) for name, values in made[0].items())
    students = [distill(one, lent.student, lent.images, QUICK).fingerprint() for one in (lent.teacher, calm)]
    assert students[0] == students[1]


def test_other_processes_get_the_teacher_frozen(tmp_path: Path) -> None:
    """A teacher in training would answer otherwise, and change."""
    teacher = Classifier(network(8, 0), spec=SPEC)
    before = state_of(teacher)
    sets = [build_transfer_set(teacher, SET, tmp_path / f"of-{n}", workers=n) for n in (1, 2)]
    assert sets[0].fingerprint() == sets[1].fingerprint()
    made = [distill(teacher, network(4, 1), sets[0], QUICK, helper=helper) for helper in (False, True)]
    assert made[0].fingerprint() == made[1].fingerprint()
    assert state_of(teacher) == before


def test_a_student_may_be_the_teachers_own_network(lent: Lent) -> None:
    before = state(lent)
    begun = initialise_from_teacher(lent.teacher, lent.teacher.module, lent.images)
    assert begun.taken_over
    student = distill(lent.teacher, lent.teacher.module, lent.images, QUICK)
    assert state(lent) == before
    assert student.fingerprint() != lent.teacher.fingerprint()


def test_a_student_that_cannot_be_trained_is_refused(lent: Lent) -> None:
    student = distilled(lent)
    with pytest.raises(ZskdError, match="all weights of the student are frozen"):
        distill(lent.teacher, student.module, lent.images, QUICK)
    with pytest.raises(ZskdError, match=r"would normalise images twice: give its network, student\.module"):
        distill(lent.teacher, student, lent.images, QUICK)
    again = distill(lent.teacher, student.module.requires_grad_(), lent.images, QUICK)
    assert again.fingerprint() != student.fingerprint()


def test_frozen_blocks_nest_share_and_end_with_exceptions(lent: Lent) -> None:
    teacher, other = lent.teacher, Classifier(lent.teacher.module, spec=SPEC, copy=False)
    before = state_of(teacher)

    def is_frozen() -> bool:
        return not any(m.training for m in teacher.modules()) and not any(
            p.requires_grad for p in teacher.parameters()
        )

    with frozen(teacher, other):
        assert is_frozen()
        with pytest.raises(Broken), frozen(other):
            raise Broken
        assert is_frozen()
        assert all(
            not p.requires_grad for p in pickle.loads(pickle.dumps(lent.finished.freeze())).parameters()
        )
    assert state_of(teacher) == before

    class Stubborn(nn.Linear):
        def train(self, mode: bool = True) -> Stubborn:
            raise Broken

    odd = nn.Sequential(nn.Dropout(), Stubborn(2, 2))
    with pytest.raises(Broken), frozen(odd):
        pass
    assert odd.training
    assert odd[0].training
