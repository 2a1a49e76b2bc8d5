"""Checkpoints and imports, good and bad."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.io import savemat

from conftest import SHAPE
from zskd.config.registry import ARCHITECTURES
from zskd.core.errors import ZskdError
from zskd.models.checkpoint import load_checkpoint, read_card
from zskd.models.classifier import Classifier, InputSpec
from zskd.teacher.opening import open_teacher


def weights(teacher: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.contiguous() for name, value in teacher.module.state_dict().items()}


def matlab(teacher: Classifier) -> dict[str, np.ndarray]:
    """The reproduction's file, laid out by hand from its description."""
    arrays = {}
    for name in ("conv0", "conv1"):
        layer = teacher.module.get_submodule(name)
        arrays[f"Teacher/{name}/weights"] = layer.weight.permute(2, 3, 1, 0).numpy()
        arrays[f"Teacher/{name}/biases"] = layer.bias.numpy()[None]
    for name in ("fc0", "fc1", "fc2"):
        layer = teacher.module.get_submodule(name)
        rows = layer.weight.T.numpy()
        if name == "fc0":
            rows = rows.reshape(16, 5, 5, 120).transpose(1, 2, 0, 3).reshape(400, 120)
        arrays[f"Teacher/{name}/weights"] = rows
        arrays[f"Teacher/{name}/biases"] = layer.bias.numpy()[None]
    return arrays


def forward_by_hand(arrays: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """LeNet-5 in NumPy, height-width-channel throughout, as TensorFlow computes it."""
    x = image[:, :, None]
    for name in ("conv0", "conv1"):
        kernel, bias = arrays[f"Teacher/{name}/weights"], arrays[f"Teacher/{name}/biases"][0]
        side = x.shape[0] - 4
        convolved = np.empty((side, side, kernel.shape[3]))
        for r in range(side):
            for c in range(side):
                convolved[r, c] = np.tensordot(x[r : r + 5, c : c + 5], kernel, 3) + bias
        rectified = np.maximum(convolved, 0)
        x = rectified.reshape(side // 2, 2, side // 2, 2, -1).max(axis=(1, 3))
    v = x.reshape(-1)
    for name in ("fc0", "fc1", "fc2"):
        v = v @ arrays[f"Teacher/{name}/weights"] + arrays[f"Teacher/{name}/biases"][0]
        if name != "fc2":
            v = np.maximum(v, 0)
    return v


def test_a_checkpoint_comes_back_as_it_was(teacher: Classifier, teacher_folder: Path) -> None:
    loaded, card = load_checkpoint(teacher_folder)
    assert loaded.fingerprint() == teacher.fingerprint()
    assert card.golden is None
    assert card.parameters == 61_706
    assert card.versions["torch"] == torch.__version__


def test_the_matlab_file_is_the_network_it_was_saved_from(teacher: Classifier, tmp_path: Path) -> None:
    arrays = matlab(teacher)
    savemat(tmp_path / "Lenet5.mat", arrays)
    imported, card = open_teacher(tmp_path / "Lenet5.mat", model="lenet5", shape=SHAPE)
    assert card.origin.how == "imported"
    image = np.random.default_rng(0).random((32, 32))
    with torch.no_grad():
        logits = imported(torch.from_numpy(image).float()[None, None])[0].numpy()
    np.testing.assert_allclose(logits, forward_by_hand(arrays, image), atol=1e-4)
    assert imported.fingerprint() == teacher.fingerprint()


@pytest.mark.parametrize(("place", "value"), [(144, 5), (176, 255), (177, 5)])
def test_a_matlab_file_that_crashes_its_reader_is_one_line(place: int, value: int, tmp_path: Path) -> None:
    """One byte makes scipy's reader end its process by a signal; that process is not ours."""
    savemat(tmp_path / "crash.mat", {"x": np.zeros((2, 2)), "y": np.array(["ab"])})
    data = bytearray((tmp_path / "crash.mat").read_bytes())
    data[place] = value
    (tmp_path / "crash.mat").write_bytes(data)
    with pytest.raises(ZskdError, match="MATLAB file"):
        open_teacher(tmp_path / "crash.mat", model="lenet5", shape=SHAPE)


def test_the_student_of_the_matlab_file_can_be_taken(teacher: Classifier, tmp_path: Path) -> None:
    arrays = matlab(teacher)
    both = arrays | {name.replace("Teacher", "Student"): -array for name, array in arrays.items()}
    savemat(tmp_path / "both.mat", both)
    assert (
        open_teacher(tmp_path / "both.mat", model="lenet5", shape=SHAPE)[0].fingerprint()
        == teacher.fingerprint()
    )
    student, card = open_teacher(tmp_path / "both.mat", model="lenet5", shape=SHAPE, weights="Student")
    assert torch.equal(student.head_weight, -teacher.head_weight)
    assert card.origin.taken == "both.mat: MATLAB file of the reproduction, took 'Student' (10 tensors)"


def test_golden_pairs_allow_what_half_precision_costs(teacher: Classifier, tmp_path: Path) -> None:
    save_file(golden(teacher), tmp_path / "golden.safetensors")
    low = {name: value.bfloat16() for name, value in weights(teacher).items()}
    torch.save({"state_dict": low}, tmp_path / "low.pt")
    _, card = open_teacher(
        tmp_path / "low.pt", model="lenet5", shape=SHAPE, golden=tmp_path / "golden.safetensors"
    )
    assert "converted 10 tensors from bfloat16" in card.origin.taken
    torch.save({name: value.float() for name, value in low.items()}, tmp_path / "low.pt")
    with pytest.raises(ZskdError, match="disagrees with the golden pairs"):
        open_teacher(tmp_path / "low.pt", model="lenet5", shape=SHAPE, golden=tmp_path / "golden.safetensors")


@pytest.mark.parametrize("wrap", [None, "state_dict", "module."])
def test_state_dicts_are_read_with_their_usual_wrappings(
    teacher: Classifier, tmp_path: Path, wrap: str | None
) -> None:
    saved: object = weights(teacher)
    if wrap == "module.":
        saved = {f"module.{name}": value for name, value in weights(teacher).items()}
    elif wrap:
        saved = {wrap: saved, "epoch": 3}
    torch.save(saved, tmp_path / "net.pt")
    imported, _ = open_teacher(tmp_path / "net.pt", model="lenet5", shape=SHAPE)
    assert imported.fingerprint() == teacher.fingerprint()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Evil()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ZskdError, match=r"names code, which was not run.*torch.save\(model.state_dict"):
            open_teacher(Path(name), model="lenet5", shape=SHAPE)
    assert not Path("ran").exists()


def test_wrong_files_are_named(teacher: Classifier, tmp_path: Path) -> None:
    good = weights(teacher)
    save_file(good, tmp_path / "good.safetensors")
    cut = (tmp_path / "good.safetensors").read_bytes()[:5000]
    (tmp_path / "cut.safetensors").write_bytes(cut)
    torch.save(good, tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:5000])
    (tmp_path / "no.mat").write_bytes(b"nothing of MATLAB")
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    save_file(good | {"fc2.bias": torch.full((10,), float("nan"))}, tmp_path / "nan.safetensors")
    save_file({k: v for k, v in good.items() if k != "fc1.bias"}, tmp_path / "less.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    expected = {
        "cut.safetensors": "not a complete safetensors file",
        "cut.pt": "is a zip archive without its end",
        "no.mat": "is a text file, not weights",
        "other.mat": "no MATLAB file of the reproduction.*conv0",
        "nan.safetensors": "'fc2.bias' holds values that are not finite",
        "less.safetensors": r"another architecture \(9 of the .*; 1 tensors are missing, e.g. fc1.bias",
        "list.pt": "holds no named tensors",
        "missing.pt": "there is no file",
        "good.onnx": "names its network: leave out --model",
    }
    for name, message in expected.items():
        with pytest.raises(ZskdError, match=message):
            open_teacher(tmp_path / name, model="lenet5", shape=SHAPE)
    with pytest.raises(ZskdError, match=r"another architecture .*conv0.weight is \(6, 1, 5, 5\) in the file"):
        open_teacher(tmp_path / "good.safetensors", model="lenet5_half", shape=SHAPE)


def golden(teacher: Classifier, n: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    x = torch.rand(n, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return {"inputs": x, "logits": teacher(x)}


def test_golden_pairs_tell_a_wrong_normalisation(teacher: Classifier, tmp_path: Path) -> None:
    save_file(weights(teacher), tmp_path / "net.safetensors")
    save_file(golden(teacher), tmp_path / "golden.safetensors")
    np.savez(tmp_path / "golden.npz", **{k: v.numpy() for k, v in golden(teacher).items()})
    for name in ("golden.safetensors", "golden.npz"):
        _, card = open_teacher(
            tmp_path / "net.safetensors", model="lenet5", shape=SHAPE, golden=tmp_path / name
        )
        assert card.golden is not None
        assert card.golden.pairs == 4
        with pytest.raises(ZskdError, match="disagrees with the golden pairs.*mean, std"):
            open_teacher(
                tmp_path / "net.safetensors",
                model="lenet5",
                shape=SHAPE,
                mean=(0.1307,),
                std=(0.3081,),
                golden=tmp_path / name,
            )


def test_golden_files_that_do_not_fit(teacher: Classifier, tmp_path: Path) -> None:
    save_file(weights(teacher), tmp_path / "net.safetensors")
    pairs = golden(teacher)
    cases = {
        "must hold": {"inputs": pairs["inputs"]},
        r"pixels in \[0, 1\]": {"inputs": pairs["inputs"] - 0.5, "logits": pairs["logits"]},
        "do not fit": {"inputs": pairs["inputs"], "logits": pairs["logits"][:, :5].contiguous()},
    }
    for message, tensors in cases.items():
        save_file(tensors, tmp_path / "golden.safetensors")
        with pytest.raises(ZskdError, match=message):
            open_teacher(
                tmp_path / "net.safetensors",
                model="lenet5",
                shape=SHAPE,
                golden=tmp_path / "golden.safetensors",
            )
    np.savez(tmp_path / "objects.npz", inputs=np.array([Evil()], dtype=object), logits=np.zeros((1, 10)))
    with pytest.raises(ZskdError, match="no readable .npy or .npz"):
        open_teacher(
            tmp_path / "net.safetensors", model="lenet5", shape=SHAPE, golden=tmp_path / "objects.npz"
        )


def test_changed_cards_and_weights_are_noticed(teacher_folder: Path, tmp_path: Path) -> None:
    import shutil

    def copy() -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        return Path(shutil.copytree(teacher_folder, tmp_path / "copy"))

    folder = copy()
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v + 1 for k, v in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(ZskdError, match="not the file of its card"):
        load_checkpoint(folder)
    folder = copy()
    (folder / "card.json").write_text('{"format": ')
    with pytest.raises(ZskdError, match="is damaged"):
        load_checkpoint(folder)
    folder = copy()
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"format": "zskd-checkpoint/9"}))
    with pytest.raises(ZskdError, match="not a card of format"):
        load_checkpoint(folder)
    folder = copy()
    (folder / "card.json").write_text(
        json.dumps(card | {"architecture": card["architecture"] | {"name": "lenet9"}})
    )
    with pytest.raises(ZskdError, match="architecture in the card is damaged"):
        load_checkpoint(folder)
    (folder / "card.json").unlink()
    with pytest.raises(ZskdError, match=r"card.json is missing"):
        load_checkpoint(folder)
    with pytest.raises(ZskdError, match="zskd teacher import"):
        read_card(tmp_path / "nowhere")


def test_every_built_in_network_survives_a_round_trip(tmp_path: Path) -> None:
    from zskd.models.checkpoint import Card, save_checkpoint
    from zskd.models.factory import build, describe

    for name in ARCHITECTURES.examples:
        architecture = describe(name, shape=SHAPE, classes=10)
        classifier = Classifier(build(architecture, run_code=False), spec=InputSpec(shape=SHAPE)).freeze()
        card = Card(architecture=architecture)
        folder = save_checkpoint(classifier, card, tmp_path / name)
        assert load_checkpoint(folder)[0].fingerprint() == classifier.fingerprint()
