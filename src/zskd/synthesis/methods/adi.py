"""Adaptive DeepInversion: images that a given student does not yet classify as the teacher does.

Yin et al.: "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020,
arXiv:1912.08795, section 3.3. docs/methods/adi.md lists the differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import ClassVar, final

import torch

from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.core.files import sha256_json
from zskd.models.checkpoint import load_checkpoint, read_card
from zskd.models.class_names import check_classes
from zskd.models.classifier import Classifier
from zskd.synthesis.inversion.objective import Objective
from zskd.synthesis.inversion.terms import Disagreement
from zskd.synthesis.methods.base import OF_DIRICHLET, one_hot_targets
from zskd.synthesis.methods.with_statistics import MethodWithStatistics


@final
@dataclass(frozen=True, kw_only=True)
class AdaptiveDeepInversion(MethodWithStatistics):
    """DeepInversion, and a term for disagreement with a student  (equations 6 to 8)."""

    student: str = ""
    """Folder of the student's checkpoint."""
    competition: float = 10.0
    """Weight of 1 − JS(teacher, student), at least 0."""
    competition_tau: float = 3.0
    """Temperature of both outputs in that term; above 0."""

    def __post_init__(self) -> None:
        """Check ranges, and that there is a student."""
        super().__post_init__()
        self.check_range("competition", low=0)
        self.check_range("competition_tau", low=0, above=True)
        if not self.student:
            raise ZskdError(
                "--method adi competes with a student: give its checkpoint folder as "
                "--method-settings.student FOLDER"
            )

    ignores: ClassVar[frozenset[str]] = OF_DIRICHLET

    targets = one_hot_targets

    def check_teacher(self, teacher: Classifier) -> None:
        """Refuse a teacher without batch-norm, and a student that does not fit it.

        Raises:
            ZskdError: one of them cannot be used.
        """
        super().check_teacher(teacher)
        student = read_student(self.student, torch.device("cpu"))
        if student.spec.shape != teacher.spec.shape:
            own, wanted = ("×".join(map(str, one.spec.shape)) for one in (student, teacher))
            raise self._unfit(f"takes images of {own}, and the teacher of {wanted}")
        if student.classes != teacher.classes:
            raise self._unfit(f"has {student.classes} classes, and the teacher {teacher.classes}")
        check_classes(student.class_names, teacher.class_names)

    def _unfit(self, why: str) -> ZskdError:
        return ZskdError(f"--method-settings.student {self.student} {why}: give a student of this teacher")

    def files(self) -> Mapping[str, str]:
        """Return the fingerprint of the student."""
        return {"student": read_student(self.student, torch.device("cpu")).fingerprint()}

    def objective(self, config: SynthesisConfig) -> Objective:
        """Return DeepInversion's objective and the disagreement; the student is read when it is first run."""
        student = cache(partial(read_student, self.student))
        return super().objective(config) + self.competition * Disagreement(student, self.competition_tau)


def read_student(folder: str, device: torch.device) -> Classifier:
    """Return the student of a checkpoint, frozen; it is read again where its card has changed.

    Of code that its card names, only what the user trusted before is run (`core/trust.py`).

    Raises:
        ZskdError: it is no checkpoint, is damaged, or needs other code of the user's own.
    """
    return _read(folder, sha256_json(read_card(Path(folder)).to_json())).to(device)


@lru_cache(maxsize=1)
def _read(folder: str, _card_sha256: str) -> Classifier:
    return load_checkpoint(Path(folder))[0].freeze()
