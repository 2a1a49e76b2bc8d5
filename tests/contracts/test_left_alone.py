"""Functions do not change the caller's objects: weights, layout, modes, gradients, hooks, torch's state.

The networks hold batch-norm and dropout, and their layers are in different modes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zskd.config.distillation import DistillConfig, FeaturesConfig, GeneratorConfig, ImageBankConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.targets import TargetsConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.data.datasets import Split
from zskd.distillation.architecture import student
from zskd.distillation.distill import distill
from zskd.distillation.initialisation.from_teacher import initialise_from_teacher
from zskd.evaluation import probes as probes_module
from zskd.evaluation.agreement import estimate_agreement
from zskd.evaluation.audit import audit_student
from zskd.evaluation.check import check_student
from zskd.evaluation.gain import measure_gain
from zskd.evaluation.inspection import count_multiply_adds, inspect_teacher
from zskd.evaluation.metrics import accuracies, accuracy, agreement, predict
from zskd.evaluation.probes import make_probes, measure
from zskd.export.pt2 import export_pt2
from zskd.models.checkpoint import Card, save_checkpoint
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.models.families import named_student
from zskd.models.modes import frozen
from zskd.models.narrow.copies import narrow
from zskd.synthesis.build import build_transfer_set, seconds_per_image
from zskd.synthesis.real import build_real_set
from zskd.synthesis.shard import make_shard
from zskd.synthesis.similarity import class_similarity, concentration
from zskd.synthesis.spec import SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.export.imagefolder import export_imagefolder
from zskd.transfer_set.export.parquet import export_parquet
from zskd.transfer_set.export.webdataset import export_webdataset

SPEC = InputSpec(shape=(1, 12, 12), mean=(0.4,), std=(0.3,))
SET = SetSpec(
    count=30,
    targets=TargetsConfig(redraws=3, concentration_floor=0.05),
    synthesis=SynthesisConfig(steps=4, batch_size=10, shard_size=20),
)
QUICK = DistillConfig(steps=4, batch_size=8, augment=AugmentConfig())
HINTS = FeaturesConfig(loss="fitnets", weight=1.0)
GENERATOR = GeneratorConfig(share=1.0, latent=4, width=4)
BANK = ImageBankConfig(share=0.5, count=2, images=8, keep=8, steps=2)


class Broken(Exception):
    """An exception of a user's network."""


class Trap:
    """A hook that records the mode of its layer in each forward pass, and can raise."""

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
    """Set the layers of a network to different states."""
    network.train()
    network[1].eval()
    network[3].weight.requires_grad_(False)
    network[8].bias.grad = torch.ones(4)
    return network


def network(width: int, seed: int) -> nn.Sequential:
    return mixed(fresh_weights(lambda: layers(width), seed))


@dataclass
class Inputs:
    """The caller's objects, and a folder for results."""

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
def inputs(tmp_path: Path) -> Inputs:
    teacher, finished = (Classifier(network(8, seed), spec=SPEC) for seed in (0, 2))
    for classifier in (teacher, finished):
        mixed(classifier.module)  # type: ignore[arg-type]
    images = build_transfer_set(teacher, SET, tmp_path / "set")
    numbers = torch.Generator().manual_seed(0)
    split = Split(torch.rand(20, *SPEC.shape, generator=numbers), torch.arange(20) % 4)
    student, traps = network(4, 1), (Trap(), Trap())
    teacher.module[4].register_forward_hook(traps[0])  # type: ignore[index, operator]
    student[4].register_forward_hook(traps[1])
    return Inputs(teacher, student, finished, images, split, tmp_path, *traps)


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
    """Everything of a network that a function could change."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "tensors": {name: bits(value) for name, value in module.state_dict().items()},
        "parameters": [(id(p), p.requires_grad, bits(p.grad)) for p in module.parameters()],
        "modes": [(name, id(layer), layer.training) for name, layer in module.named_modules()],
        "hooks": [{key: list(getattr(layer, key)) for key in hooks} for layer in module.modules()],
        "rewrite": getattr(module, "rewrite", None),
    }


def state_of_torch() -> dict[str, object]:
    """Everything global that a function could change; not Python's generator, which beartype uses."""
    return {
        "rng": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def state(inputs: Inputs) -> dict[str, object]:
    networks = {"teacher": inputs.teacher, "student": inputs.student, "finished": inputs.finished}
    pixels = {"images": inputs.split.images, "labels": inputs.split.labels}
    return (
        {name: state_of(module) for name, module in networks.items()}
        | {name: bits(tensor) for name, tensor in pixels.items()}
        | {"torch": state_of_torch()}
    )


def distilled(inputs: Inputs, **changes: Any) -> Classifier:
    images = None if changes.pop("alone", False) else inputs.images
    return distill(inputs.teacher, inputs.student, images, replace(QUICK, **changes))


USING_TEACHER: dict[str, Callable[[Inputs], object]] = {
    "distill": distilled,
    "distill, features": lambda inputs: distilled(inputs, features=HINTS),
    "distill, fixed batch-norm": lambda inputs: distilled(inputs, batch_norm="fixed"),
    "distill, generator": lambda inputs: distilled(inputs, alone=True, start="random", generator=GENERATOR),
    "distill, image bank": lambda inputs: distilled(inputs, image_bank=BANK),
    "initialise_from_teacher": lambda inputs: initialise_from_teacher(
        inputs.teacher, inputs.student, inputs.images
    ),
    "build_transfer_set": lambda inputs: build_transfer_set(inputs.teacher, SET, inputs.folder / "made"),
    "build_real_set": lambda inputs: build_real_set(
        inputs.teacher, inputs.split, inputs.folder / "real", count=20
    ),
    "make_shard": lambda inputs: make_shard(inputs.teacher, SET, 0),
    "seconds_per_image": lambda inputs: seconds_per_image(inputs.teacher, SET),
    "trace_impression": lambda inputs: trace_impression(inputs.teacher, SET, 0),
    "export_imagefolder": lambda inputs: export_imagefolder(
        inputs.teacher, inputs.images, inputs.folder / "imagefolder"
    ),
    "export_parquet": lambda inputs: export_parquet(inputs.teacher, inputs.images, inputs.folder / "parquet"),
    "export_webdataset": lambda inputs: export_webdataset(
        inputs.teacher, inputs.images, inputs.folder / "webdataset"
    ),
    "export_pt2": lambda inputs: export_pt2(
        inputs.teacher, inputs.folder / "a.pt2", images=inputs.split.images
    ),
    "inspect_teacher": lambda inputs: inspect_teacher(inputs.teacher),
    "count_multiply_adds": lambda inputs: count_multiply_adds(inputs.teacher),
    "measure_gain": lambda inputs: measure_gain(inputs.teacher, inputs.finished, seconds=0.01),
    "named_student": lambda inputs: named_student(inputs.teacher, "parameters", 10**4),
    "predict": lambda inputs: predict(inputs.teacher, inputs.split.images),
    "accuracy": lambda inputs: accuracy(inputs.teacher, inputs.split),
    "accuracies": lambda inputs: accuracies(inputs.teacher, inputs.split),
    "agreement": lambda inputs: agreement(inputs.teacher, inputs.finished, inputs.split.images),
    "make_probes": lambda inputs: make_probes(inputs.teacher),
    "measure": lambda inputs: measure(inputs.teacher, inputs.finished, make_probes(inputs.teacher)),
    "check_student": lambda inputs: check_student(
        inputs.teacher, inputs.finished, inputs.split.images, inputs.split.labels
    ),
    "audit_student": lambda inputs: audit_student(
        inputs.teacher,
        inputs.finished,
        inputs.split.images,
        1 - inputs.split.images,
        transfer_set=inputs.images,
    ),
    "estimate_agreement": lambda inputs: estimate_agreement(inputs.teacher, inputs.finished),
}
"""Public functions that run the teacher."""
OTHERS: dict[str, Callable[[Inputs], object]] = {
    "Classifier": lambda inputs: Classifier(inputs.student, spec=SPEC),
    "Classifier, used": lambda inputs: Classifier(inputs.student, spec=SPEC).freeze().to("meta"),
    "class_similarity": lambda inputs: concentration(class_similarity(inputs.teacher.head_weight)),
    "fingerprint": lambda inputs: inputs.teacher.fingerprint(),
    "save_checkpoint": lambda inputs: save_checkpoint(
        inputs.teacher, Card(architecture={"factory": "none:none"}), inputs.folder / "saved"
    ),
    "narrow": lambda inputs: narrow(inputs.teacher, 0.5),
    "narrow, a module": lambda inputs: narrow(inputs.student, 0.5, "params", shape=SPEC.shape),
    "student": lambda inputs: student("mlp", like=inputs.finished),
    "pickle": lambda inputs: pickle.dumps(inputs.finished),
}


@pytest.mark.parametrize("name", [*USING_TEACHER, *OTHERS])
def test_the_callers_objects_do_not_change(name: str, inputs: Inputs) -> None:
    before = state(inputs)
    (USING_TEACHER | OTHERS)[name](inputs)
    assert state(inputs) == before
    assert bool(inputs.trap.trained) == (name in USING_TEACHER)
    assert not any(inputs.trap.trained), "the teacher was run in training mode"


@pytest.mark.parametrize("passes", [0, 1, 2])
# these run copies, whose hooks are copies too
@pytest.mark.parametrize("name", [one for one in USING_TEACHER if one not in ("measure_gain", "export_pt2")])
def test_they_do_not_change_if_the_teacher_raises(name: str, passes: int, inputs: Inputs) -> None:
    inputs.trap.passes = passes
    before = state(inputs)
    try:
        USING_TEACHER[name](inputs)
    except Broken:
        assert len(inputs.trap.trained) == passes + 1
    else:  # it runs the teacher no more often
        assert 0 < len(inputs.trap.trained) <= passes
    assert state(inputs) == before


def test_they_do_not_change_if_the_student_raises(inputs: Inputs) -> None:
    inputs.students_trap.passes = 0
    before = state(inputs)
    with pytest.raises(ZskdError, match="cannot take an input"):
        Classifier(inputs.student, spec=SPEC)
    with pytest.raises(ZskdError, match="cannot take an input"):
        distilled(inputs)
    assert state(inputs) == before


def test_a_plain_call_changes_the_networks(inputs: Inputs) -> None:
    """So the tests above can fail."""
    before = state(inputs)
    inputs.teacher(inputs.split.images)  # batch-norm counts, dropout draws
    after = state(inputs)
    assert after["teacher"] != before["teacher"]
    assert after["torch"] != before["torch"]
    layout = state_of(inputs.student)
    Classifier(inputs.student, spec=SPEC, copy=False)
    assert state_of(inputs.student) != layout


def test_a_classifier_owns_its_network(inputs: Inputs) -> None:
    network_of_caller = inputs.student
    classifier = Classifier(network_of_caller, spec=SPEC)
    assert classifier.layout == "channels_last"
    assert network_of_caller[3].weight.is_contiguous()
    assert [layer.training for layer in classifier.module.modules()] == [
        m.training for m in network_of_caller.modules()
    ]
    assert [p.requires_grad for p in classifier.parameters()] == [
        p.requires_grad for p in network_of_caller.parameters()
    ]
    known = classifier.fingerprint()
    with torch.no_grad():
        network_of_caller[8].bias += 1
    assert classifier.fingerprint() == known
    own = network(4, 3)
    assert Classifier(own, spec=SPEC, copy=False).module is own


def test_a_network_that_draws_random_numbers_does_not_change_the_callers_generator() -> None:
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


def test_a_network_that_cannot_be_copied_can_be_wrapped_without_a_copy() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))
    module.lock = Lock()  # type: ignore[assignment]
    with pytest.raises(ZskdError, match=r"cannot be copied.*Classifier\(network, copy=False\)"):
        Classifier(module, spec=SPEC)
    assert Classifier(module, spec=SPEC, copy=False).classes == 3


def test_the_callers_modes_do_not_change_the_results(inputs: Inputs) -> None:
    frozen_teacher = Classifier(inputs.teacher.module, spec=SPEC).freeze()
    assert frozen_teacher.fingerprint() == inputs.teacher.fingerprint()
    made = [make_shard(one, SET, 0).tensors() for one in (inputs.teacher, frozen_teacher)]
    assert all(torch.equal(values, made[1][name]) for name, values in made[0].items())
    students = [
        distill(one, inputs.student, inputs.images, QUICK).fingerprint()
        for one in (inputs.teacher, frozen_teacher)
    ]
    assert students[0] == students[1]


def test_other_processes_receive_the_frozen_teacher(tmp_path: Path) -> None:
    """A teacher in training mode would output other logits, and change."""
    teacher = Classifier(network(8, 0), spec=SPEC)
    before = state_of(teacher)
    sets = [build_transfer_set(teacher, SET, tmp_path / f"of-{n}", workers=n) for n in (1, 2)]
    assert sets[0].fingerprint() == sets[1].fingerprint()
    made = [distill(teacher, network(4, 1), sets[0], QUICK, helper=helper) for helper in (False, True)]
    assert made[0].fingerprint() == made[1].fingerprint()
    assert state_of(teacher) == before


def test_a_student_may_be_the_teachers_own_network(inputs: Inputs) -> None:
    before = state(inputs)
    initialised = initialise_from_teacher(inputs.teacher, inputs.teacher.module, inputs.images)
    assert initialised.from_teacher
    student = distill(inputs.teacher, inputs.teacher.module, inputs.images, QUICK)
    assert state(inputs) == before
    assert student.fingerprint() != inputs.teacher.fingerprint()


def test_a_student_that_cannot_be_trained_is_refused(inputs: Inputs) -> None:
    student = distilled(inputs)
    with pytest.raises(ZskdError, match="all weights of the student are frozen"):
        distill(inputs.teacher, student.module, inputs.images, QUICK)
    with pytest.raises(ZskdError, match=r"would normalise images twice: give its network, student\.module"):
        distill(inputs.teacher, student, inputs.images, QUICK)
    again = distill(inputs.teacher, student.module.requires_grad_(), inputs.images, QUICK)
    assert again.fingerprint() != student.fingerprint()


def test_frozen_blocks_nest_share_and_end_with_exceptions(inputs: Inputs) -> None:
    teacher, other = inputs.teacher, Classifier(inputs.teacher.module, spec=SPEC, copy=False)
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
            not p.requires_grad for p in pickle.loads(pickle.dumps(inputs.finished.freeze())).parameters()
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
