"""The class similarity of a teacher as a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from zskd.core.artefact import Artefact, ClassNames, write_artefact
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.synthesis.similarity import class_similarity, concentration

SIMILARITY = "similarity.json"
_MOST_CLASSES = 1000
"""Classes of a file that a run writes: two numbers for each pair of classes are in the memory together."""
_Cosine = Annotated[float, Field(ge=-1 - 1e-9, le=1 + 1e-9)]
_Scaled = Annotated[float, Field(ge=-1e-9, le=1 + 1e-9)]


class SimilarityFile(Artefact):
    """Similarity and concentration of K classes."""

    class_names: ClassNames
    similarity: tuple[tuple[_Cosine, ...], ...]
    """Cosine of each two class vectors (K, K), −1 to 1."""
    concentration: tuple[tuple[_Scaled, ...], ...]
    """The similarity with each row scaled to [0, 1] by its minimum and maximum (K, K)."""

    @model_validator(mode="after")
    def _is_square(self) -> SimilarityFile:
        k = len(self.class_names)
        for name, matrix in (("similarity", self.similarity), ("concentration", self.concentration)):
            if [len(row) for row in matrix] != [k] * k:
                raise ValueError(f"{name} has not {k} rows and columns")
        return self


def has_similarity(teacher: Classifier) -> bool:
    """Whether a teacher has a head that gives a class similarity; methods without it need none."""
    with frozen(teacher):
        try:
            concentration(class_similarity(teacher.head_weight))
        except ZskdError:
            return False
    return True


def shows_similarity(teacher: Classifier) -> bool:
    """Whether a teacher's class similarity is shown: it has one, of no more classes than a page can hold."""
    return teacher.classes <= _MOST_CLASSES and has_similarity(teacher)


def similarity_of(teacher: Classifier) -> SimilarityFile:
    """Return class names, class similarity and concentration of a teacher.

    Raises:
        ZskdError: the head gives no class similarity.
    """
    similarity = class_similarity(teacher.head_weight)
    matrices = (tuple(map(tuple, matrix.tolist())) for matrix in (similarity, concentration(similarity)))
    return SimilarityFile(
        class_names=teacher.class_names, similarity=next(matrices), concentration=next(matrices)
    )


def write_similarity(teacher: Classifier, path: Path, progress: Progress | None = None) -> None:
    """Write class names, class similarity and concentration as JSON, of up to 1,000 classes.

    Args:
        teacher: not changed.
        path: of the file; replaced as a whole.
        progress: receives a line where it is not written.

    Raises:
        ZskdError: the head gives no class similarity, or the file cannot be written.
    """
    if teacher.classes > _MOST_CLASSES:
        if progress is not None:
            progress.log(f"{path.name} is not written: it would be large for {teacher.classes:,} classes")
        return
    write_artefact(path, similarity_of(teacher))
