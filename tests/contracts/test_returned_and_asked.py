"""What own code returns in place of what it must, and what is asked of functions that cannot be meant."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import zskd
from zskd.config.distillation import DistillConfig, GeneratorConfig
from zskd.config.synthesis import SynthesisConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.distillation.build import build_student
from zskd.distillation.distill import distill
from zskd.distillation.spec import StudentSpec
from zskd.models.classifier import Classifier
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

PLAIN = DistillConfig(
    start="random", steps=2, batch_size=8, optimiser="adam", learning_rate=0.01, augment=AugmentConfig()
)
METHOD = """
from dataclasses import dataclass
import torch, zskd

@dataclass(frozen=True)
class Number(zskd.Term):
    def __call__(self, forward):
        return 3.0

@dataclass(frozen=True)
class Mine(zskd.Method):
    def targets(self, teacher, entries, config, *, seed):
        rows = zskd.one_hot([entry.anchor for entry in entries], teacher.classes)
        return RETURNED

    def objective(self, config):
        return OBJECTIVE
"""


def spec_of(folder: Path, returned: str, objective: str = "zskd.match_targets(config)") -> SetSpec:
    code = folder / "what_is_returned.py"
    code.write_text(METHOD.replace("RETURNED", returned).replace("OBJECTIVE", objective))
    synthesis = SynthesisConfig(steps=2, batch_size=4, noise_share=0.0)
    return SetSpec(method=f"{code}:Mine", count=4, synthesis=synthesis)


def test_targets_may_be_a_tensor(teacher: Classifier, tmp_path: Path) -> None:
    array = make_shard(teacher, spec_of(tmp_path, "rows"), 0)
    tensor = make_shard(teacher, spec_of(tmp_path, "torch.from_numpy(rows)"), 0)
    assert torch.equal(array.images, tensor.images)
    with pytest.raises(ZskdError, match="returned None: targets must be an array"):
        make_shard(teacher, spec_of(tmp_path, "None"), 0)
    with pytest.raises(ZskdError, match=r"they must be float32 of \(4, 10\)"):
        make_shard(teacher, spec_of(tmp_path, "[1, 2]"), 0)


def test_a_term_that_returns_no_tensor_is_told(teacher: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ZskdError, match="the term Number returned 3.0: it must return a tensor"):
        make_shard(teacher, spec_of(tmp_path, "rows", "Number()"), 0)


def test_an_optimiser_function_that_returns_none_is_told(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    code = tmp_path / "no_optimiser.py"
    code.write_text("def nothing(weights, learning_rate):\n    pass\n")
    config = replace(PLAIN, optimiser=f"{code}:nothing")
    with pytest.raises(ZskdError, match="nothing returned None: return a torch.optim.Optimizer"):
        distill(teacher, zskd.half(teacher), small_set, config)


def test_half_takes_a_classifier_and_narrow_names_its_kinds(teacher: Classifier) -> None:
    of_network, of_classifier = zskd.half(teacher.module), zskd.half(teacher)
    shapes = [[one.shape for one in net.state_dict().values()] for net in (of_network, of_classifier)]
    assert shapes[0] == shapes[1]
    with pytest.raises(ZskdError, match="'channels' is no kind of share: give one of narrow, params, width"):
        zskd.narrow(teacher, 0.5, "channels")  # type: ignore[arg-type]


def test_any_text_may_tell_how_a_student_begins(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    network = zskd.half(teacher)
    distill(teacher, network, small_set, PLAIN, state=tmp_path / "state.safetensors", begins_as="fold:3")


def test_a_set_beside_a_generator_that_makes_all_images_is_refused(
    teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    config = replace(PLAIN, generator=GeneratorConfig(share=1.0, method="dfad"))
    with pytest.raises(ZskdError, match="a generator makes all images of this student: leave"):
        build_student(teacher, StudentSpec(distill=config), small_set, tmp_path / "student")
    assert not (tmp_path / "student").exists()
