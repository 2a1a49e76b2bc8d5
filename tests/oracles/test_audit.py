"""The audit against counts by hand, SciPy's densities, networks that memorise and ones that know nothing."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.data.datasets import Split
from zskd.evaluation.audit import Audit, Shown, audit_shown, audit_student
from zskd.evaluation.membership import MembershipTest, confidence, likelihood_ratio
from zskd.evaluation.roc import chance, true_positives
from zskd.models.classifier import Classifier, InputSpec
from zskd.models.factory import fresh_weights
from zskd.synthesis.real import build_real_set

SPEC = InputSpec(shape=(1, 6, 6))
CLASSES = 4


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def untrained(seed: int) -> Classifier:
    return Classifier(fresh_weights(layers, seed), spec=SPEC, copy=False).freeze()


def noise(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Images and labels that nothing can be learnt of, only remembered."""
    numbers = torch.Generator().manual_seed(seed)
    return torch.rand(count, *SPEC.shape, generator=numbers), torch.randint(
        CLASSES, (count,), generator=numbers
    )


@pytest.fixture(scope="module")
def groups() -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    (members, of_members), (others, of_others) = noise(0, 40), noise(1, 200)
    return members, others, (of_members, of_others)


@pytest.fixture(scope="module")
def memorised(groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]]) -> Classifier:
    """A network that knows the labels of its forty images by heart."""
    images, _, (labels, _) = groups
    classifier = Classifier(fresh_weights(layers, 0), spec=SPEC)
    optimiser = torch.optim.Adam(classifier.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(classifier(images), labels).backward()
        optimiser.step()
    return classifier.freeze()


def of(found: Audit, network: str, by: str) -> MembershipTest:
    (test,) = (one for one in found.tests if (one.of, one.by) == (network, by))
    return test


def test_a_network_that_memorised_its_images_is_found_out(
    memorised: Classifier, groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]]
) -> None:
    found = audit_student(memorised, untrained(5), *groups)
    for by in ("loss", "likelihood"):
        assert of(found, "teacher", by).area.area > 0.8
        assert of(found, "teacher", by).tells
        assert of(found, "student", by).area.low <= 0.5 <= of(found, "student", by).area.high
    teacher, student, doubt = found.sentences
    assert teacher.startswith("Outputs of the teacher differ between members and others (loss: AUC 0.9")
    assert student.startswith("No difference between members and others is found in outputs of the student (")
    assert "--reference" in doubt
    assert Audit.model_validate_json(found.model_dump_json(), strict=True) == found


def test_its_area_is_the_count_of_pairs_in_the_right_order(
    memorised: Classifier, groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]]
) -> None:
    members, others, labels = groups
    losses = []
    for images, classes in zip((members, others), labels, strict=True):
        logits = memorised(images).double()
        losses.append(nn.functional.cross_entropy(logits, classes, reduction="none").tolist())
    right = sum((one < other) + 0.5 * (one == other) for one in losses[0] for other in losses[1])
    found = audit_student(None, memorised, *groups)
    assert of(found, "student", "loss").area.area == pytest.approx(right / (40 * 200), abs=1e-9)
    assert [one.of for one in found.tests] == ["student", "student"]


def test_networks_that_have_seen_neither_cover_chance_about_as_often_as_they_claim(
    groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]],
) -> None:
    covered = told = 0
    for seed in range(12):
        found = audit_student(untrained(seed), untrained(seed + 100), *groups)
        covered += sum(one.area.low <= 0.5 <= one.area.high for one in found.tests)
        told += any(one.tells or one.is_reversed for one in found.tests)
        assert all(one.found is not None and one.found.low <= 1 for one in found.tests)
    assert covered / (12 * 4) >= 0.9
    assert told <= 2


def test_without_labels_they_are_the_predictions_of_the_teacher(
    memorised: Classifier, groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]]
) -> None:
    members, others, _ = groups
    teacher = untrained(3)
    predicted = teacher(members).argmax(1), teacher(others).argmax(1)
    found, given = (
        audit_student(teacher, memorised, members, others, one, reference=untrained(7))
        for one in (None, predicted)
    )
    assert (found.labels, given.labels) == ("teacher", "given")
    assert found.tests == given.tests
    assert audit_student(None, memorised, members, others).labels == "student"


def test_a_reference_is_subtracted_and_judged_itself(
    memorised: Classifier, groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]]
) -> None:
    members, others, labels = groups
    reference = untrained(8)
    found = audit_student(None, memorised, *groups, reference=reference)
    scores = [
        confidence(memorised(images), classes) - confidence(reference(images), classes)
        for images, classes in zip((members, others), labels, strict=True)
    ]
    right = sum((scores[0][:, None] > scores[1][None]).mean(1)) / len(members)
    assert of(found, "student", "likelihood").area.area == pytest.approx(right)
    assert [one.by for one in found.tests if one.of == "reference"] == ["loss"]
    told = audit_student(None, memorised, *groups, reference=reference).sentences
    assert [one.partition(" (")[0] for one in told] == [
        "Outputs of the student differ between members and others"
    ]
    same = audit_student(memorised, memorised, *groups, reference=memorised).sentences
    assert [one.partition(" (")[0] for one in same] == [
        "No difference between members and others is found in outputs of the teacher",
        "No difference between members and others is found in outputs of the student",
        "Losses of the reference differ between members and others",
    ]


def test_the_confidence_is_the_log_of_the_odds_also_where_probabilities_are_rounded() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 5
    p = logits.double().softmax(1).gather(1, labels[:, None])[:, 0]
    assert confidence(logits, labels) == pytest.approx((p / (1 - p)).log().numpy())
    sure = confidence(torch.tensor([[200.0, 0.0], [300.0, 0.0]]), torch.tensor([0, 0]))
    assert sure.tolist() == [200, 300]


def test_the_ratio_is_that_of_normal_densities_fitted_on_the_other_half() -> None:
    drawn = np.random.default_rng(0)
    member, labels = np.arange(300) < 120, np.arange(300) % 3
    labels[labels == 2] = np.where(np.arange(100) < 8, 2, 1)  # a class with few images
    values = drawn.normal(size=300) * (1 + member) + labels + member
    ratio, tested = likelihood_ratio(values, member, labels)
    assert ((tested & member).sum(), (tested & ~member).sum()) == (60, 90)

    def density(value: float, rows: np.ndarray) -> float:
        fitted = values[rows & ~tested]
        return float(norm.logpdf(value, fitted.mean(), fitted.std(ddof=1)))

    for found, row in zip(ratio, np.flatnonzero(tested), strict=True):
        same = labels == labels[row] if labels[row] < 2 else np.ones(300, dtype=bool)
        expected = density(values[row], same & member) - density(values[row], same & ~member)
        assert found == pytest.approx(expected)


def test_true_positives_by_hand() -> None:
    others, members = np.arange(200.0), np.array([5.0, 197.0, 197.5, 198.5, 300.0])
    scores, positive = np.concatenate([members, others]), np.arange(205) < 5
    found = true_positives(scores, positive)
    assert found is not None
    assert (found.percent, found.n) == (60, 5)  # above 197: two of 200 others are
    # of 200 others, 0 to 6 are above the true threshold with 97.5 % confidence
    assert found.low == 0
    assert found.high == pytest.approx(100 * beta.ppf(1 - 0.0125, 5, 1))  # four are above the seventh, 193
    assert true_positives(scores[:104], positive[:104]) is None
    equal = true_positives(np.zeros(205), positive)
    assert equal is not None
    assert equal.percent == 0
    with pytest.raises(ZskdError, match="no positive images"):
        true_positives(others, np.zeros(200, dtype=bool))


@pytest.mark.parametrize("distance", [0.0, 1.5])
def test_the_interval_of_true_positives_covers_the_truth(distance: float) -> None:
    drawn = np.random.default_rng(1)
    truth = 100 * norm.sf(norm.isf(0.01) - distance)
    covered, positive = 0, np.arange(1000) < 300
    for _ in range(100):
        found = true_positives(drawn.normal(size=1000) + distance * positive, positive)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered / 100 >= 0.95


def test_the_probability_is_that_of_all_orders() -> None:
    """Of 100 others and 3 positives above the second other, each order being equally probable."""
    scores, positive = np.concatenate([[200.0, 201, 202], np.arange(100.0)]), np.arange(103) < 3
    exact = math.comb(4, 3) / math.comb(103, 3)  # the three are in the first four places
    assert chance(scores, positive) == pytest.approx(2 * exact)
    drawn = np.random.default_rng(2)
    few = [chance(drawn.normal(size=240), np.arange(240) < 120) for _ in range(200)]
    assert 0.01 <= np.mean(np.array(few) < 0.05) <= 0.08
    assert chance(-scores, positive) < 0.01  # the area, on its other side


def test_impressions_that_repeat_members_are_found_and_others_are_not(tmp_path: Path) -> None:
    teacher = untrained(0)
    (members, of_members), (others, _), (strangers, of_strangers) = (noise(seed, 120) for seed in (2, 3, 4))
    repeated = (members + 0.02 * torch.rand_like(members)).clamp(0, 1)
    copies = build_real_set(teacher, Split(repeated, of_members), tmp_path / "copies", count=60)
    found = audit_student(teacher, untrained(1), members, others, transfer_set=copies)
    for by in ("pixels", "features"):
        one = of(found, "impressions", by)
        assert one.tells
        assert one.found is not None
        assert one.found.percent >= 45
    assert found.nearest is not None
    distances = torch.cdist(others.flatten(1), copies.all_images().flatten(1)) / 6
    assert found.nearest[1] == pytest.approx(float(distances.min()), rel=1e-4)
    assert 0 < found.nearest[0] < 0.02
    assert "Impressions are nearer to members than to others" in found.sentences[2]
    new = build_real_set(teacher, Split(strangers, of_strangers), tmp_path / "new", count=60)
    found = audit_student(None, untrained(1), members, others, transfer_set=new)
    assert not of(found, "impressions", "pixels").tells
    assert [one.by for one in found.tests] == ["loss", "likelihood", "pixels"]
    assert found.sentences[1].startswith("Impressions are not nearer to members than to others")


def test_an_exact_copy_has_the_distance_zero(tmp_path: Path) -> None:
    images, labels = noise(5, 60)
    copies = build_real_set(untrained(0), Split(images, labels), tmp_path / "set", count=60)
    found = audit_student(None, untrained(1), images[:30], noise(6, 30)[0], transfer_set=copies)
    assert found.nearest is not None
    assert found.nearest[0] == 0
    assert of(found, "impressions", "pixels").area.area == 1


def test_others_that_score_higher_are_no_sign_of_training() -> None:
    surer = {"student": torch.tensor([[9.0, 0.0]]).repeat(120, 1) + torch.arange(240.0).view(120, 2) / 1e3}
    unsure = {"student": surer["student"] - torch.tensor([8.0, 0.0])}
    found = audit_shown(Shown(unsure, {}), Shown(surer, {}))
    assert of(found, "student", "loss").area.area == 0
    assert "No difference" not in found.sentences[0]
    assert "more than membership" in found.sentences[-1]


def test_what_cannot_be_tested_is_refused(
    tmp_path: Path, groups: tuple[Tensor, Tensor, tuple[Tensor, Tensor]]
) -> None:
    student, (members, others, _) = untrained(0), groups
    with pytest.raises(ZskdError, match="3 members and 200 others: give at least 20"):
        audit_student(None, student, members[:3], others)
    with pytest.raises(ZskdError, match="labels are 0 to 3"):
        audit_student(None, student, members, others, (torch.full((40,), 4), torch.zeros(200).long()))
    names = tuple("abcd")
    ordered, swapped = (
        Classifier(student.module, spec=SPEC, class_names=one) for one in (names, names[::-1])
    )
    with pytest.raises(ZskdError, match="the teacher has the student's class a at another place"):
        audit_student(swapped, ordered, members, others)
    fewer = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), spec=SPEC)
    with pytest.raises(ZskdError, match="the reference has 3 classes and the student 4"):
        audit_student(None, student, members, others, reference=fewer)
    large = InputSpec(shape=(1, 8, 8))
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), spec=large)
    with pytest.raises(ZskdError, match=r"the teacher takes images of \(1, 8, 8\)"):
        audit_student(other, student, members, others)
    large_images = Split(torch.rand(20, 1, 8, 8), torch.zeros(20, dtype=torch.int64))
    set_of_large = build_real_set(other, large_images, tmp_path / "large", count=20)
    with pytest.raises(ZskdError, match=r"holds images of \(1, 8, 8\)"):
        audit_student(None, student, members, others, transfer_set=set_of_large)
    broken = {"student": torch.full((20, 2), math.nan)}
    with pytest.raises(ZskdError, match="an output of the student is not finite"):
        audit_shown(Shown(broken, {}), Shown(broken, {}))
