"""Generators that play against the student: what every game keeps to, and that each player gets better."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import StopAt, Stopped
from zskd.config.distillation import DistillConfig, GeneratorConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.errors import ZskdError
from zskd.distillation.adversarial.generator import Generator
from zskd.distillation.adversarial.generator_steps import AdversarialGenerator
from zskd.distillation.adversarial.registry import GENERATOR_METHODS
from zskd.distillation.attention import attend, attention_distance, check_attention
from zskd.distillation.distill import distill
from zskd.models.classifier import Classifier, InputSpec
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.spec import SetSpec
from zskd.transfer_set.dataset import TransferSet

SPEC = InputSpec(shape=(1, 10, 10), box=(0.1, 0.8))
SMALL = GeneratorConfig(share=1.0, latent=6, width=4, student_steps=3, learning_rate=0.01)
QUICK = DistillConfig(
    start="random",
    steps=50,
    batch_size=16,
    learning_rate=0.01,
    loss="l1",
    augment=AugmentConfig(),
    game=SMALL,
)


def network(seed: int, filters: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, filters, 3),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(filters, 2 * filters, 3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(8 * filters, 4),
        )


@pytest.fixture
def teacher() -> Classifier:
    return Classifier(network(0, 6), spec=SPEC).freeze()


def played(teacher: Classifier, config: DistillConfig, **more: object) -> dict[str, Tensor]:
    return distill(teacher, network(1), None, config, **more).module.state_dict()  # type: ignore[arg-type]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("rule", GENERATOR_METHODS)
@pytest.mark.parametrize("same_images", [False, True])
def test_a_seed_gives_the_same_student_and_another_seed_another(
    teacher: Classifier, rule: str, same_images: bool
) -> None:
    config = replace(QUICK, steps=12, game=replace(SMALL, rule=rule, same=same_images))  # type: ignore[arg-type]
    assert same(played(teacher, config), played(teacher, config))
    assert not same(played(teacher, config), played(teacher, config, seed=1))


@pytest.mark.parametrize(
    "config",
    [
        QUICK,
        replace(QUICK, optimiser="sgd", attention=3.0),
        replace(QUICK, game=replace(SMALL, same=True, schedule="cosine", student_steps=7)),
    ],
    ids=["adam", "sgd", "same images"],
)
def test_a_game_that_was_stopped_goes_on_to_the_same_student(
    teacher: Classifier, config: DistillConfig, tmp_path: Path
) -> None:
    state = tmp_path / "state.safetensors"
    whole = played(teacher, config)
    for stop in (30, 45):  # states are saved at 20 and 40
        with pytest.raises(Stopped):
            played(teacher, config, state=state, progress=StopAt(stop))
    assert state.is_file()
    assert same(played(teacher, config, state=state), whole)


def test_the_state_of_another_game_is_not_used(teacher: Classifier, tmp_path: Path) -> None:
    state, other = tmp_path / "state.safetensors", replace(QUICK, game=replace(SMALL, rule="zskt"))
    with pytest.raises(Stopped):
        played(teacher, QUICK, state=state, progress=StopAt(30))
    assert same(played(teacher, other, state=state), played(teacher, other))


def test_the_teacher_is_left_as_it_was_and_no_hook_stays(teacher: Classifier) -> None:
    before, rewrite = teacher.fingerprint(), teacher.rewrite
    student = distill(teacher, network(1), None, replace(QUICK, steps=4, attention=1.0))
    assert teacher.fingerprint() == before
    assert teacher.rewrite == rewrite
    for module in (*teacher.modules(), *student.modules()):
        assert not module._forward_hooks
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_hook_does_not_stay_behind_an_exception(teacher: Classifier) -> None:
    with pytest.raises(RuntimeError):
        attend(teacher, torch.zeros(2, 3, 10, 10))
    assert not any(module._forward_hooks for module in teacher.modules())
    assert teacher.rewrite


@pytest.mark.parametrize("rule", GENERATOR_METHODS)
def test_a_generator_finds_what_the_student_does_not_know(teacher: Classifier, rule: str) -> None:
    student = Classifier(network(1), spec=SPEC).freeze()
    config = replace(SMALL, rule=rule, student_steps=1)  # type: ignore[arg-type]
    player = AdversarialGenerator(teacher, student, config, seed=0, turns=61)

    def pain() -> float:
        images = player.images(64)
        with torch.no_grad():
            return -float(GENERATOR_METHODS[rule](student(images), teacher(images)))

    first = pain()
    for _ in range(60):
        last = pain()
    assert last > 1.25 * first


@pytest.mark.parametrize("rule", GENERATOR_METHODS)
def test_what_a_generator_is_after_is_nothing_where_the_networks_agree(rule: str) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert float(GENERATOR_METHODS[rule](logits, logits)) == pytest.approx(0, abs=1e-6)
    assert float(GENERATOR_METHODS[rule](logits, logits.flip(1))) < -0.1


def test_a_student_learns_from_a_generator_alone(teacher: Classifier) -> None:
    test = torch.rand(500, *SPEC.shape, generator=torch.Generator().manual_seed(9)) * 0.7 + 0.1

    def error(student: nn.Module) -> float:
        with torch.no_grad():
            return float((Classifier(student, spec=SPEC)(test) - teacher(test)).abs().mean())

    student = network(1)
    learnt = distill(teacher, student, None, replace(QUICK, steps=400)).module
    assert error(learnt) < 0.5 * error(student)


@pytest.mark.parametrize("shape", [(1, 10, 10), (3, 32, 32), (2, 13, 6)])
def test_images_have_the_teachers_shape_and_lie_in_its_box(shape: tuple[int, int, int]) -> None:
    images = Generator(latent=5, width=4, shape=shape, box=(0.1, 0.8))(torch.randn(7, 5))
    assert images.shape == (7, *shape)
    assert float(images.detach().min()) >= 0.1
    assert float(images.detach().max()) <= 0.8


def test_a_share_of_a_batch_is_made_and_the_rest_is_from_the_set(teacher: Classifier, tmp_path: Path) -> None:
    noise = build_transfer_set(teacher, SetSpec(method="noise", count=40), tmp_path / "set")
    stored = {image.numpy().tobytes() for image in TransferSet(noise.folder).all_images()}
    seen: list[int] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) == 16:
            seen.append(sum(image.numpy().tobytes() in stored for image in inputs[0]))

    handle = teacher.register_forward_pre_hook(note)
    distill(teacher, network(1), noise, replace(QUICK, steps=6, game=replace(SMALL, share=0.25)))
    handle.remove()
    assert seen == [12] * 6


def test_without_set_or_generator_there_is_nothing_to_learn_from(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match="no transfer set to learn from: give --distill.game.share 1"):
        distill(teacher, network(1), None, replace(QUICK, game=GeneratorConfig(share=0.9)))


def test_equal_networks_look_at_the_same_places(teacher: Classifier) -> None:
    images = torch.rand(3, *SPEC.shape)
    logits, maps = attend(teacher, images)
    torch.testing.assert_close(logits, teacher(images))
    assert [one.shape for one in maps] == [(3, 64), (3, 4)]
    for one in maps:
        torch.testing.assert_close(one.norm(dim=1), torch.ones(3))
    assert float(attention_distance(maps, maps)) == 0
    other = attend(Classifier(network(5, 2), spec=SPEC).freeze(), images)[1]
    by_hand = sum(float((a - b).square().mean()) for a, b in zip(maps, other, strict=True))
    assert float(attention_distance(maps, other)) == pytest.approx(by_hand)


def test_networks_that_cannot_be_compared_are_refused(teacher: Classifier) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(100, 4))
    with pytest.raises(ZskdError, match=r"\[\] and \[64, 4\] pixels: give --distill.attention 0"):
        distill(teacher, flat, None, replace(QUICK, attention=1.0))
    check_attention(teacher, Classifier(network(3, 2), spec=SPEC))
