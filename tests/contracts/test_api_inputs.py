"""Wrong input of the public Python API is refused in one line; folders and files may be given as text."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zskd

SPEC = zskd.InputSpec(shape=(1, 4, 4))
SET = zskd.SetSpec(count=8, synthesis=zskd.SynthesisConfig(steps=3, batch_size=4))
SHORT = zskd.DistillConfig(steps=2, batch_size=4)
FUNCTIONS = [name for name in zskd.__all__ if inspect.isfunction(getattr(zskd, name))]


def network(seed: int, spec: zskd.InputSpec = SPEC) -> zskd.Classifier:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    module[1].weight.data = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    return zskd.Classifier(module, spec=spec).freeze()


TEACHER, STUDENT = network(0), network(1)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture(autouse=True)
def as_users_run_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the check of annotations that only tests have, in a folder of its own."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.chdir(tmp_path)


MEASURES: dict[str, Callable[[Any], object]] = {
    "predict": lambda images: zskd.predict(TEACHER, images),
    "accuracy": lambda images: zskd.accuracy(TEACHER, zskd.Split(images, LABELS)),
    "agreement": lambda images: zskd.agreement(TEACHER, STUDENT, images),
    "check_student": lambda images: zskd.check_student(TEACHER, STUDENT, images, LABELS),
}
"""Functions that measure on images."""
TAKEN: dict[str, Callable[[Any], object]] = {
    "audit_student": lambda images: zskd.audit_student(None, STUDENT, images, images),
    "export_onnx": lambda images: zskd.export_onnx(STUDENT, "a.onnx", images=images),
    "export_pt2": lambda images: zskd.export_pt2(STUDENT, "a.pt2", images=images),
    "export_torch": lambda images: zskd.export_torch(STUDENT, "folder", images=images),
}
"""Functions that are given images for something else, or more of them."""
WRONG: dict[str, tuple[Any, str]] = {
    "bytes": ((IMAGES * 255).byte(), "are torch.uint8: give float pixels from 0 to 1"),
    "0 to 255": (IMAGES * 255, "and the network takes 0 to 1"),
    "normalised": ((IMAGES - 0.5) / 0.2, "without mean and std"),
    "not a number": (IMAGES / 0 * 0, "pixels are nan"),
    "numpy": (IMAGES.numpy(), r"are a ndarray: give a float tensor, as torch\.from_numpy\(x\)"),
}


@pytest.mark.parametrize("measure", (MEASURES | TAKEN).values(), ids=MEASURES | TAKEN)
@pytest.mark.parametrize(("images", "message"), WRONG.values(), ids=WRONG)
def test_pixels_of_another_kind_are_refused(
    measure: Callable[[Any], object], images: object, message: str
) -> None:
    with pytest.raises(zskd.ZskdError, match=message):
        measure(images)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_other_precisions_and_a_small_overshoot_are_taken(measure: Callable[[Any], object]) -> None:
    wanted = measure(IMAGES)
    for images in (IMAGES.double(), IMAGES.double().half(), IMAGES.bfloat16()):
        assert str(measure(images)) == str(measure(images.float()))
    assert str(measure(IMAGES.double())) == str(wanted)
    measure(1.6 * IMAGES - 0.3)


def test_an_export_is_compared_on_at_least_one_image() -> None:
    with pytest.raises(zskd.ZskdError, match="there are no images to compare on"):
        zskd.export_pt2(STUDENT, "a.pt2", images=IMAGES[:0])
    assert zskd.export_pt2(STUDENT, "a.pt2", images=IMAGES[:1].double()).pictures == 1


def test_real_pixels_outside_of_a_narrow_box_are_taken() -> None:
    narrow = network(0, replace(SPEC, box=(0.0, 0.3)))
    assert torch.equal(zskd.predict(narrow, IMAGES), zskd.predict(TEACHER, IMAGES))
    with pytest.raises(zskd.ZskdError, match=r"the network takes 0 to 0\.3"):
        zskd.predict(narrow, 255 * IMAGES)


@pytest.mark.parametrize(
    "labels",
    [LABELS[:4], LABELS[:1], LABELS.tolist(), LABELS.float(), LABELS + 77, LABELS - 1, LABELS[:, None]],
    ids=["too few", "one", "a list", "floats", "beyond the classes", "negative", "a column"],
)
def test_labels_that_do_not_fit_are_refused(labels: Any) -> None:
    with pytest.raises(zskd.ZskdError, match="labels are 0 to 2, "):
        zskd.check_student(TEACHER, STUDENT, IMAGES, labels)
    with pytest.raises(zskd.ZskdError, match="labels are 0 to 2, "):
        zskd.accuracy(TEACHER, zskd.Split(IMAGES, labels))


def test_labels_of_other_whole_numbers_count_alike() -> None:
    found = zskd.check_student(TEACHER, STUDENT, IMAGES, LABELS)
    assert zskd.check_student(TEACHER, STUDENT, IMAGES, LABELS.byte()) == found


@pytest.mark.parametrize(("index", "frames"), [(-1, 8), (8, 8), (0, 1), (0, 0)])
def test_a_trace_that_is_not_there_is_refused(index: int, frames: int) -> None:
    with pytest.raises(zskd.ZskdError, match="from 0 to 7" if frames == 8 else "give at least 2"):
        zskd.trace_impression(TEACHER, SET, index, frames=frames)
    with pytest.raises(zskd.ZskdError, match="from 0 to 7" if frames == 8 else "give at least 2"):
        zskd.trace_impressions(TEACHER, SET, [1, index], frames=frames)


def test_impressions_are_traced_by_the_spec_that_they_were_made_with() -> None:
    asked = replace(
        SET,
        synthesis=zskd.SynthesisConfig(
            steps=3,
            batch_size=8,
            tolerance=0.0,
            noise_share=0.0,
            learning_rate_search=3,
            changes="by_teacher",
            warp=zskd.WarpConfig(flip=0.5),
        ),
    )
    images = zskd.build_transfer_set(TEACHER, asked, "asked")
    with pytest.raises(zskd.ZskdError, match=r"give that of the finished set, made_spec"):
        zskd.trace_impression(TEACHER, asked, 0)
    spec = zskd.made_spec(images.manifest)
    traces = zskd.trace_impressions(TEACHER, spec, range(8))
    assert torch.equal(torch.stack([traces[k][-1].image for k in range(8)]), images.all_images())


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_negative_time_is_refused(seconds: float) -> None:
    with pytest.raises(zskd.ZskdError, match="seconds is"):
        zskd.measure_gain(TEACHER, STUDENT, seconds=seconds)


@pytest.fixture
def made() -> zskd.TransferSet:
    return zskd.build_transfer_set(TEACHER, SET, "made")


def test_a_transfer_set_is_given_as_text(made: zskd.TransferSet) -> None:
    assert zskd.TransferSet("made").folder == made.folder == Path("made")
    assert zskd.verify_folder("made")
    assert zskd.export_mat(made, "set.mat") == Path("set.mat")
    assert zskd.export_imagefolder(TEACHER, made, "pictures") == Path("pictures")


def test_a_student_is_given_as_text(made: zskd.TransferSet) -> None:
    spec = zskd.StudentSpec(student="mlp(widths=(4,))", distill=SHORT)
    student = zskd.build_student(TEACHER, spec, made, "student")
    loaded, card = zskd.load_checkpoint("student")
    assert zskd.save_checkpoint(loaded, card, "copy") == Path("copy")
    assert zskd.load_checkpoint("copy")[0].fingerprint() == student.fingerprint()
    zskd.distill(TEACHER, loaded.module, made, SHORT, state="state", curve="curve.json")
    assert Path("curve.json").is_file()


def test_an_upload_is_given_as_text() -> None:
    Path("folder").mkdir()
    Path("folder/file").write_text("text")
    address = Path("uploaded").resolve().as_uri()
    zskd.upload("folder", address)
    assert Path("uploaded/file").read_text() == "text"


def test_pictures_are_given_as_text() -> None:
    Path("pictures").mkdir()
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save("pictures/a.png")
    assert len(zskd.build_picture_set(TEACHER, "pictures", "given")) == 1


def test_files_given_as_text_are_refused_in_words() -> None:
    Path("file").touch()
    refused: dict[str, Callable[[], object]] = {
        "does not end in .onnx": lambda: zskd.export_onnx(STUDENT, "a.bin"),
        "does not end in .pt2": lambda: zskd.export_pt2(STUDENT, "a.bin"),
        "holds no finished run": lambda: zskd.report_run("nothing"),
        "cannot create the folder file": lambda: zskd.run_recipe(zskd.load_recipe("digits"), "file"),
        "there is no file no.onnx": lambda: zskd.ExportedNetwork("no.onnx"),
    }
    for message, call in refused.items():
        with pytest.raises(zskd.ZskdError, match=message):
            call()


@pytest.mark.parametrize("name", [*FUNCTIONS, "TransferSet", "ExportedNetwork"])
def test_every_path_may_be_text(name: str) -> None:
    for one in inspect.signature(inspect.unwrap(getattr(zskd, name))).parameters.values():
        if "Path" in str(one.annotation):
            assert "str | Path" in str(one.annotation), one


def test_lists_and_numpy_numbers_give_the_fingerprint_of_tuples() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    plain = zskd.Classifier(
        module, spec=zskd.InputSpec(shape=(1, 4, 4), mean=(0.5,)), class_names=("a", "b", "c")
    )
    spec = zskd.InputSpec(shape=np.array([1, 4, 4]), mean=[np.float64(0.5)], std=torch.ones(1))  # type: ignore[arg-type]
    listed = zskd.Classifier(module, spec=spec, class_names=["a", "b", "c"])  # type: ignore[arg-type]
    assert listed.fingerprint() == plain.fingerprint()
    assert listed.spec == plain.spec


def test_a_checkpoint_is_opened_with_what_its_card_says_as_lists() -> None:
    saved = zskd.student("mlp(widths=(4,))", like=TEACHER).freeze()
    assert saved.architecture is not None
    zskd.save_checkpoint(saved, zskd.Card(architecture=saved.architecture), "checkpoint")
    given = {"shape": [1, 4, 4], "mean": [0.0], "class_names": ["0", "1", "2"]}
    assert zskd.open_teacher("checkpoint", **given)[0].fingerprint() == saved.fingerprint()  # type: ignore[arg-type]
    with pytest.raises(zskd.ZskdError, match="is a checkpoint with mean 0"):
        zskd.open_teacher("checkpoint", mean=[0.5])  # type: ignore[arg-type]


def test_a_teacher_goes_on_from_no_state_of_another_training(digits: zskd.Dataset) -> None:
    spec = zskd.InputSpec(shape=tuple(digits.train.images.shape[1:]))

    def trained(seed: int, rate: float, state: str | None) -> str:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Flatten(), nn.Linear(spec.shape[1] * spec.shape[2], 10))
        config = zskd.FitConfig(steps=1200, batch_size=8, learning_rate=rate)
        return zskd.train_teacher(
            zskd.Classifier(module, spec=spec, class_names=digits.class_names),
            digits,
            config,
            seed=seed,
            state=state,
        ).fingerprint()

    first = trained(0, 1e-3, "state")
    assert Path("state").is_file()
    assert first == trained(0, 1e-3, None)
    assert trained(1, 1e-3, "state") == trained(1, 1e-3, None) != first
    assert trained(0, 1e-4, "state") == trained(0, 1e-4, None) != first


def learner() -> nn.Module:
    return zskd.student("mlp(widths=(4,))", like=TEACHER).module


def test_a_student_learns_where_the_caller_has_switched_gradients_off(made: zskd.TransferSet) -> None:
    usual = zskd.distill(TEACHER, learner(), made, SHORT)
    with torch.no_grad():
        assert zskd.distill(TEACHER, learner(), made, SHORT).fingerprint() == usual.fingerprint()
        assert not torch.is_grad_enabled()


def test_a_loss_of_a_notebook_which_has_no_file_trains(
    made: zskd.TransferSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own_loss(student: torch.Tensor, teacher: torch.Tensor, config: object) -> torch.Tensor:
        return (student - teacher).square().mean()

    own_loss.__module__ = "__main__"
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "own_loss", own_loss, raising=False)
    monkeypatch.delattr(main, "__file__", raising=False)
    config = replace(SHORT, loss="__main__:own_loss")
    assert zskd.distill(TEACHER, learner(), made, config, state="state").class_names == ("0", "1", "2")


def test_a_student_of_distill_is_saved_with_the_architecture_of_its_network(made: zskd.TransferSet) -> None:
    own = zskd.student("mlp(widths=(4,))", like=TEACHER)
    assert own.architecture is not None
    trained = zskd.distill(TEACHER, own.module, made, SHORT)
    zskd.save_checkpoint(trained, zskd.Card(architecture=own.architecture), "student")
    assert zskd.load_checkpoint("student")[0].fingerprint() == trained.fingerprint()


def test_a_teacher_that_cannot_learn_or_takes_other_images_is_not_trained(digits: zskd.Dataset) -> None:
    spec = zskd.InputSpec(shape=tuple(digits.train.images.shape[1:]))
    pixels = spec.shape[1] * spec.shape[2]
    flat = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 10))
    frozen = zskd.Classifier(flat, spec=spec, class_names=digits.class_names).freeze()
    with pytest.raises(zskd.ZskdError, match=r"frozen: call classifier\.requires_grad_\(\)"):
        zskd.train_teacher(frozen, digits, zskd.FitConfig(steps=1), seed=0)
    wide = zskd.InputSpec(shape=(1, 2 * spec.shape[1], spec.shape[2]))
    other = nn.Sequential(nn.Flatten(), nn.Linear(2 * pixels, 10))
    taller = zskd.Classifier(other, spec=wide, class_names=digits.class_names)
    with pytest.raises(zskd.ZskdError, match="give images of that shape"):
        zskd.train_teacher(taller, digits, zskd.FitConfig(steps=1), seed=0)


def test_integers_of_numpy_are_seeds_and_settings(made: zskd.TransferSet) -> None:
    spec = replace(SET, seed=np.int64(0), count=np.int32(8))
    assert spec == SET
    assert zskd.build_transfer_set(TEACHER, spec, "again").fingerprint() == made.fingerprint()
    usual = zskd.distill(TEACHER, learner(), made, SHORT, seed=3)
    given = zskd.distill(TEACHER, learner(), made, SHORT, seed=np.int64(3), state="state")  # type: ignore[arg-type]
    assert given.fingerprint() == usual.fingerprint()
    assert zskd.numpy_stream(np.int64(3), "a", 0).random() == zskd.numpy_stream(3, "a", 0).random()  # type: ignore[arg-type]


def test_another_default_precision_of_torch_is_told() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(zskd.ZskdError, match=r"torch\.float64 by default, .*set_default_dtype"):
            network(0)
    finally:
        torch.set_default_dtype(torch.float32)
