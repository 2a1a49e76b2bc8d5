"""The contract of every synthesis method and every preset."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limits import LIMIT
from warm import python
from zskd.config.loading import load_recipe
from zskd.config.presets import preset_changes, preset_names
from zskd.config.registry import CONTROLS, METHODS
from zskd.config.synthesis import SynthesisConfig
from zskd.core.errors import ZskdError
from zskd.models.classifier import Classifier
from zskd.models.factory import fresh_weights
from zskd.models.networks.lenet import lenet5_bn
from zskd.synthesis.build import build_transfer_set
from zskd.synthesis.inversion.invert import invert
from zskd.synthesis.inversion.lanes import InversionBatch, LaneState
from zskd.synthesis.settling import settle
from zskd.synthesis.shard import make_shard
from zskd.synthesis.spec import HELD_OUT, SetSpec
from zskd.synthesis.trace import trace_impression
from zskd.transfer_set.dataset import TransferSet
from zskd.transfer_set.shard import Shard

OWN = {
    preset_changes(name)["method"]: name for name in preset_names()[1:] if "method" in preset_changes(name)
}
"""Method -> its preset; the other presets are for all methods that have none."""
SHARED = [name for name in preset_names() if name not in OWN.values()]
EVERY = [(method, preset) for method in METHODS for preset in ([OWN[method]] if method in OWN else SHARED)]


def spec_of(method: str, preset: str | None = None, count: int = 60) -> SetSpec:
    recipe = load_recipe(None, {"preset": preset or OWN.get(method, "default"), "count": count})
    synthesis = replace(recipe.synthesis, steps=4, batch_size=20, shard_size=40)
    return SetSpec(
        method=method,
        method_settings={"student": "teacher"} if method == "adi" else {},
        count=count,
        seed=1,
        targets=recipe.targets,
        synthesis=synthesis,
    )


STATISTICS = [method for method in METHODS if spec_of(method).objective.reads_statistics]
"""Methods that read the teacher's batch-norm statistics."""


@pytest.fixture(autouse=True)
def beside_a_checkpoint(teacher_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder "teacher" holds a network that can be the student of others."""
    monkeypatch.chdir(teacher_folder.parent)


@pytest.fixture(scope="module")
def with_norms() -> Classifier:
    return Classifier(fresh_weights(lenet5_bn, 0)).freeze()


@pytest.fixture
def suited(teacher: Classifier, with_norms: Classifier) -> Callable[[SetSpec], Classifier]:
    """Returns a teacher that has what a method reads."""
    return lambda spec: with_norms if spec.objective.reads_statistics else teacher


def same(one: Shard, other: Shard) -> bool:
    return all(torch.equal(value, other.tensors()[name]) for name, value in one.tensors().items())


@pytest.mark.parametrize(("method", "preset"), EVERY)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_bytes(
    suited: Callable[[SetSpec], Classifier], method: str, preset: str
) -> None:
    spec = spec_of(method, preset)
    teacher = suited(spec)
    first = make_shard(teacher, spec, 0)
    assert same(first, make_shard(teacher, spec, 0))
    assert not torch.equal(first.images, make_shard(teacher, replace(spec, seed=2), 0).images)


@pytest.mark.parametrize(("method", "preset"), EVERY)
def test_pixels_targets_logits_and_kl_are_consistent(
    suited: Callable[[SetSpec], Classifier], method: str, preset: str
) -> None:
    spec = spec_of(method, preset)
    teacher = suited(spec)
    shard = make_shard(teacher, spec, 0)
    assert 0 <= float(shard.images.min()) <= float(shard.images.max()) <= 1
    torch.testing.assert_close(shard.targets.sum(1), torch.ones(len(shard)))
    with torch.no_grad():
        logits = teacher(shard.images)
    torch.testing.assert_close(shard.logits, logits, atol=1e-4, rtol=1e-4)
    log_outputs = torch.log_softmax(shard.logits / spec.synthesis.tau, 1)
    kl = torch.special.xlogy(shard.targets, shard.targets).sum(1) - (shard.targets * log_outputs).sum(1)
    torch.testing.assert_close(shard.kl, kl, atol=1e-5, rtol=1e-4)
    untouched = shard.steps == 0
    most = spec.synthesis.steps
    assert set(shard.steps.tolist()) <= (set(range(most + 1)) if spec.synthesis.tolerance else {0, most})
    assert torch.equal(shard.anchors[untouched], shard.logits[untouched].argmax(1))
    assert float(shard.kl[untouched].abs().max() if untouched.any() else 0) < 1e-5


@pytest.mark.parametrize("method", list(METHODS))
def test_the_teacher_is_left_as_it_was(suited: Callable[[SetSpec], Classifier], method: str) -> None:
    spec = spec_of(method)
    teacher = suited(spec)
    before = teacher.fingerprint()
    make_shard(teacher, spec, 0)
    assert teacher.fingerprint() == before
    assert teacher.rewrite
    assert not any(layer._forward_pre_hooks for layer in teacher.modules())
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def hooks(teacher: Classifier) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in teacher.modules()
    )


@pytest.mark.parametrize("method", list(METHODS))
def test_no_hook_stays_even_after_an_exception(suited: Callable[[SetSpec], Classifier], method: str) -> None:
    spec = spec_of(method)
    teacher, passes = suited(spec), list[Tensor]()

    def stop_in_the_second_pass(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        passes.append(output)
        if len(passes) == 2:
            raise KeyboardInterrupt

    before = hooks(teacher)
    handle = teacher.register_forward_hook(stop_in_the_second_pass)
    with pytest.raises(KeyboardInterrupt):
        make_shard(teacher, spec, 0)
    handle.remove()
    assert hooks(teacher) == before
    assert teacher.rewrite
    assert not teacher.training


def test_no_hook_stays_after_an_error_between_two_steps_or_in_a_pass(teacher: Classifier) -> None:
    def stop(_lanes: LaneState) -> None:
        raise KeyboardInterrupt

    before = hooks(teacher)
    with pytest.raises(KeyboardInterrupt):
        invert(
            teacher,
            InversionBatch(torch.rand(2, 1, 32, 32), torch.eye(10)[:2]),
            SynthesisConfig(),
            on_step=stop,
        )
    with pytest.raises(RuntimeError):
        teacher.features(torch.rand(2, 1, 5, 5))
    teacher.features(torch.rand(2, 1, 32, 32))
    assert hooks(teacher) == before


@pytest.mark.parametrize("method", [method for method in METHODS if spec_of(method).nests])
def test_a_set_is_the_beginning_of_a_larger_one(teacher: Classifier, method: str, tmp_path: Path) -> None:
    small = build_transfer_set(teacher, spec_of(method, count=50), tmp_path / "small")
    large = build_transfer_set(teacher, spec_of(method, count=130), tmp_path / "large")
    assert (len(small), len(large)) == (50, 130)
    rows = torch.arange(50)
    assert torch.equal(small.images(rows), large.images(rows))


@pytest.mark.parametrize("method", STATISTICS)
def test_images_that_share_statistics_are_those_of_their_shard(
    with_norms: Classifier, method: str, tmp_path: Path
) -> None:
    spec = spec_of(method, count=50)
    assert not spec.nests
    made = build_transfer_set(with_norms, spec, tmp_path / "set", workers=2)
    assert made.manifest.resolved is not None
    assert made.manifest.resolved.coupled
    assert same(list(made)[1], make_shard(with_norms, spec, 1))
    # the last batch holds ten images and ten lanes without one
    alone = make_shard(with_norms, replace(spec, count=60), 1)
    assert torch.equal(alone.targets[:10], list(made)[1].targets)
    assert not torch.equal(alone.images[:10], list(made)[1].images)
    frames = trace_impression(with_norms, spec, 45, frames=3)
    assert [frame.step for frame in frames] == [0, 1, 4]
    assert torch.equal(frames[-1].image, list(made)[1].images[5])


@pytest.mark.parametrize("method", STATISTICS)
def test_a_teacher_without_batch_norm_is_refused_before_any_work(
    teacher: Classifier, method: str, tmp_path: Path
) -> None:
    with pytest.raises(ZskdError, match="reads the running statistics of batch-norm layers, and the teacher"):
        build_transfer_set(teacher, spec_of(method), tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("preset", SHARED)
def test_shards_are_the_same_in_any_order_and_in_another_process(
    teacher: Classifier, teacher_folder: Path, tmp_path: Path, preset: str
) -> None:
    spec = spec_of("zskd", preset, count=120)
    shards = spec.shards(10)
    assert shards > 2
    settled = settle(teacher, spec).spec
    backwards = {number: make_shard(teacher, settled, number) for number in reversed(range(shards))}
    made = build_transfer_set(teacher, spec, tmp_path / "set")
    assert all(same(shard, backwards[number]) for number, shard in enumerate(made))
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(2)\n"
        "from zskd import build_transfer_set, load_checkpoint; from zskd.synthesis.spec import read_spec\n"
        "from zskd.transfer_set.manifest import read_manifest\n"
        "spec = read_spec(read_manifest(Path(sys.argv[2])).spec)\n"
        "build_transfer_set(load_checkpoint(Path(sys.argv[1]))[0], spec, Path(sys.argv[3]))\n"
    )
    arguments = [str(teacher_folder), str(tmp_path / "set"), str(tmp_path / "other")]
    subprocess.run([*python(), "-c", code, *arguments], check=True, timeout=LIMIT)
    other = TransferSet(tmp_path / "other")
    assert other.manifest == made.manifest


def test_held_out_images_are_not_those_of_the_set(teacher: Classifier) -> None:
    spec = spec_of("zskd")
    apart = make_shard(teacher, replace(spec, first_index=HELD_OUT), 0)
    assert not torch.equal(make_shard(teacher, spec, 0).images, apart.images)


def test_controls_differ_from_the_main_arm_in_their_method_alone() -> None:
    from zskd.run.arms import plan_arms

    recipe = load_recipe("digits", {"controls": list(CONTROLS)})
    main, *controls = plan_arms(recipe, None)
    assert [arm.name for arm in controls] == list(CONTROLS)
    for arm in controls:
        assert arm.spec.count == main.spec.count
        assert replace(arm.spec.synthesis, start=main.spec.synthesis.start) == main.spec.synthesis
        assert arm.spec.targets == main.spec.targets
    assert {arm.name: arm.spec.synthesis.start for arm in controls if arm.spec.method == "noise"} == {
        "noise_smooth": "smooth",
        "noise_shapes": "shapes",
        "noise_white": "uniform",
    }
    optional = set(CONTROLS) - set(load_recipe("digits").control_arms)
    assert optional == {"noise_smooth"}  # the others are run unless they are left out


def test_a_trace_ends_in_the_stored_image(
    teacher: Classifier, small_spec: SetSpec, small_set: TransferSet
) -> None:
    frames = trace_impression(teacher, small_spec, 21, frames=4)
    steps = next(iter(small_set)).steps
    row = next(row for row in range(21, 40) if int(steps[row]) > 0)
    assert [frame.step for frame in frames] == sorted(
        {round(int(steps[row]) * (k / 3) ** 2) for k in range(4)}
    )
    assert frames[0].kl > frames[-1].kl
    assert torch.equal(frames[-1].image, small_set.images(torch.tensor([row]))[0])


def test_a_trace_has_as_many_steps_as_the_image_took(teacher: Classifier) -> None:
    spec = spec_of("zskd")
    settings = replace(spec.synthesis, steps=20, learning_rate=0.1, tau=4.0, tolerance=0.3, noise_share=0.0)
    spec = replace(spec, synthesis=settings)
    shard = make_shard(teacher, spec, 0)
    lengths = shard.steps.tolist()
    assert len(set(lengths)) > 3
    for steps in (min(lengths), sorted(lengths)[20], max(lengths)):
        row = lengths.index(steps)
        frames = trace_impression(teacher, spec, row, frames=5)
        assert frames[-1].step == steps
        assert torch.equal(frames[-1].image, shard.images[row])
        assert frames[-1].kl == pytest.approx(float(shard.kl[row]), abs=1e-4)


def test_noise_has_no_trace(teacher: Classifier) -> None:
    with pytest.raises(ZskdError, match="the images of this set are not optimised"):
        trace_impression(teacher, spec_of("noise"), 0)
