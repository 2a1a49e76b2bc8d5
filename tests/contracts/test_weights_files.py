"""One trained network in the shapes of file that people have: what loads, what is told, what is refused.

Files are written by the libraries that write them in reality. Logits, computed before saving, are the truth.
"""

import argparse
import collections
import gzip
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zskd.core.errors import ZskdError
from zskd.teacher.weights.matching import Fitted, fit_weights
from zskd.teacher.weights.reading import read_weights

Weights = dict[str, Tensor]


class Net(nn.Module):
    """Small, with batch-norm, a buffer that is not saved, and one module of several layers."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(4)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        )
        self.fc = nn.Linear(24, classes)
        self.register_buffer("grid", torch.arange(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).flatten(1))


INPUTS = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def trained() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        net(torch.randn(64, 3, 16, 16))  # running statistics are not the initial ones
    return net.eval()


NET = trained()
WEIGHTS: Weights = NET.state_dict()
with torch.no_grad():
    LOGITS = NET(INPUTS)


def under(prefix: str, weights: Weights = WEIGHTS) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def spoilt() -> Weights:
    return {name: value + 0.5 if value.is_floating_point() else value for name, value in WEIGHTS.items()}


def cast(dtype: torch.dtype) -> Weights:
    return {n: v.to(dtype) if v.is_floating_point() else v for n, v in WEIGHTS.items()}


def renamed(change: Callable[[str], str]) -> Weights:
    return {change(name): value for name, value in WEIGHTS.items()}


def numpy_weights() -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in WEIGHTS.items()}


def nested() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in WEIGHTS.items():
        *path, last = name.split(".")
        level = tree
        for part in path:
            level = level.setdefault(part, {})
        level[last] = value
    return tree


def logits_of(fitted: Fitted) -> Tensor:
    net = Net().eval()
    net.load_state_dict(fitted.tensors)
    with torch.no_grad():
        return net(INPUTS)


def read(path: Path, weights: str | None = None) -> Fitted:
    return fit_weights(Net(), read_weights(path), weights)


def saved(what: object, **options: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(what, path, **options)


def pickled(what: object, protocol: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(what, protocol)) and None


class Options:
    """A class that a checkpoint names."""

    def __init__(self) -> None:
        self.lr = 0.1
        self.where = Path("logs")


class Learner:
    """What fastai exports: an object with the network somewhere inside."""

    def __init__(self) -> None:
        self.dls, self.opt_func, self.model = [1, 2], print, NET


def first_export(path: Path) -> None:
    """The archive that torch.export wrote before torch 2.8."""
    inner = io.BytesIO()
    torch.save(WEIGHTS, inner)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", inner.getvalue())


def script(path: Path) -> None:
    torch.jit.script(NET).save(str(path))


LOADS: dict[str, tuple[Callable[[Path], Any], str]] = {
    # what the file is called has nothing to do with what it is
    "plain.onnx": (saved(WEIGHTS), "torch archive, took 16 tensors"),
    "plain": (saved(WEIGHTS), "took 16 tensors"),
    "plain.jpg": (
        saved(WEIGHTS, _use_new_zipfile_serialization=False),
        "torch file in the old format, took 16",
    ),
    "weights.pt": (lambda p: save_file(WEIGHTS, p), "safetensors, took 16 tensors"),
    "best.pth.tar": (
        saved({"epoch": 3, "state_dict": under("module."), "best_acc1": torch.tensor(98.0)}),
        "took 'state_dict' (16 tensors), stripped 'module.'",
    ),
    "old_with_class.t7": (
        saved({"net": NET, "acc": 98.3}, _use_new_zipfile_serialization=False, pickle_protocol=2),
        "took 'net' (16 tensors)",
    ),
    "namespace.pth": (
        saved({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1), "options": Options()}),
        "took 'model' (16 tensors); names code, which was not run: argparse.Namespace",
    ),
    "numpy_scalar.pth": (saved({"state_dict": WEIGHTS, "best": np.float64(98.3)}), "took 'state_dict'"),
    "detectron.pth": (saved({"model": numpy_weights(), "__author__": "x"}), "took 'model' (16 tensors)"),
    "mmcv.pth": (saved({"meta": {"epoch": 1}, "state_dict": WEIGHTS}), "took 'state_dict'"),
    "lightning.ckpt": (
        saved(
            {"state_dict": under("model.net."), "optimizer_states": [{"state": {0: {"exp_avg": WEIGHTS}}}]}
        ),
        "stripped 'model.net.'",
    ),
    "tuple.pth": (saved((WEIGHTS, 3)), "took '0' (16 tensors)"),
    "list.pth": (saved([{"epoch": 3}, {"weights": WEIGHTS}]), "took '1.weights' (16 tensors)"),
    "deep.pth": (saved({"a": {"b": [{"c": under("x.module.y._orig_mod.")}]}}), "took 'a.b.0.c'"),
    "compiled_ddp.pth": (saved(under("_orig_mod.module.")), "stripped '_orig_mod.module.'"),
    "ddp_compiled.pth": (saved(under("module._orig_mod.")), "stripped 'module._orig_mod.'"),
    "inner.pth": (
        saved(renamed(lambda n: n.replace("features.", "features.module._orig_mod."))),
        "left out 'module', '_orig_mod' inside names",
    ),
    "fsdp.pth": (
        saved(renamed(lambda n: "_fsdp_wrapped_module." + n.replace("fc.", "fc._fsdp_wrapped_module."))),
        "stripped '_fsdp_wrapped_module.', left out '_fsdp_wrapped_module' inside names",
    ),
    "own_prefix.pth": (saved(under("architecture.backbone_v2.")), "stripped 'architecture.backbone_v2.'"),
    "two_prefixes.pth": (
        saved(renamed(lambda n: n.replace("features", "backbone.features").replace("fc", "head.fc"))),
        "stripped 'backbone.', 'head.'",
    ),
    "pairs.pth": (saved({"weights": list(WEIGHTS.items())}), "took 'weights' (16 tensors)"),
    "nested.pth": (saved({"params": nested()}), "took 16 tensors, stripped 'params.'"),
    "swa.pth": (
        saved(torch.optim.swa_utils.AveragedModel(NET).state_dict()),
        "stripped 'module.', dropped n_averaged (1)",
    ),
    "thop.pth": (
        saved(WEIGHTS | {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}),
        "dropped total_ops (1), total_params (1)",
    ),
    "criterion.pth": (saved(under("net.") | {"criterion.weight": torch.ones(10)}), "dropped criterion.* (1)"),
    "losses.pth": (
        saved(WEIGHTS | {"loss_fn.weight": torch.ones(10), "AuxLogits.fc.weight": torch.ones(10, 3)}),
        "dropped loss_fn.* (1), AuxLogits.* (1)",
    ),
    "unsaved_buffer.pth": (saved(WEIGHTS | {"grid": torch.arange(3)}), "dropped grid (1)"),
    "no_counters.pth": (
        saved({n: v for n, v in WEIGHTS.items() if "num_batches" not in n}),
        "filled num_batches_tracked (2)",
    ),
    "counter_float.pt": (
        saved({n: v.float() for n, v in WEIGHTS.items()}),
        "converted 2 tensors from float32",
    ),
    "old_scalar.pt": (
        saved({n: v.reshape(1) if not v.ndim else v for n, v in WEIGHTS.items()}),
        "took 16 tensors",
    ),
    "double.pt": (saved(cast(torch.float64)), "converted 14 tensors from float64"),
    "views.pt": (
        saved({n: v.repeat_interleave(2, 0)[::2] if v.ndim else v for n, v in WEIGHTS.items()}),
        "took 16",
    ),
    "one_storage.pt": (
        saved(
            {
                n: torch.cat([v.reshape(-1), v.reshape(-1)])[v.numel() :].view(v.shape)
                for n, v in WEIGHTS.items()
            }
        ),
        "took 16",
    ),
    "parameters.pt": (saved(dict(NET.named_parameters()) | dict(NET.named_buffers())), "dropped grid (1)"),
    "whole_model.pt": (saved(NET), "took 16 tensors; names code, which was not run: "),
    "whole_parallel.pt": (saved(nn.DataParallel(NET)), "stripped 'module.'"),
    "whole_model.pkl": (pickled(NET, 4), "pickle, took 16 tensors"),
    "fastai.pkl": (saved(Learner()), "took 'model' (16 tensors)"),
    **{f"pickle_{n}.pkl": (pickled({"w": WEIGHTS}, n), "pickle, took 'w'") for n in (0, 2, 3, 5)},
    **{
        f"numpy_{n}.pkl": (pickled(numpy_weights(), n), "pickle, took 16 tensors") for n in (0, 1, 2, 3, 4, 5)
    },
    "fortran.pkl": (
        pickled(
            {n: np.asfortranarray(v.astype(v.dtype.newbyteorder(">"))) for n, v in numpy_weights().items()}, 4
        ),
        "pickle, took 16",
    ),
    "arrays.npz": (lambda p: np.savez(p, **numpy_weights()), "NumPy archive, took 16 tensors"),
    "arrays_small.npz": (
        lambda p: np.savez_compressed(p, **numpy_weights()),
        "NumPy archive, took 16 tensors",
    ),
    "trace.pt": (lambda p: torch.jit.trace(NET, INPUTS).save(str(p)), "TorchScript archive, took 16"),
    "script.zip": (script, "TorchScript archive, took 16"),
    "exported.pt2": (
        lambda p: torch.export.save(torch.export.export(NET, (INPUTS,)), p),
        "torch.export archive, took 16",
    ),
    "exported_first.pt2": (first_export, "torch.export archive, took 16"),
    "ordered.pth": (
        saved({"state_dict": collections.OrderedDict(WEIGHTS), "history": [1.0]}),
        "took 'state_dict'",
    ),
    "defaultdict.pth": (saved(collections.defaultdict(dict, {"m": WEIGHTS})), "took 'm'"),
}


@pytest.mark.parametrize("name", list(LOADS))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_is_found_in_what_people_save(name: str, tmp_path: Path) -> None:
    write, told = LOADS[name]
    write(tmp_path / name)
    fitted = read(tmp_path / name)
    assert told in fitted.summary
    assert "\n" not in fitted.summary
    torch.testing.assert_close(logits_of(fitted), LOGITS, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_converted_and_named(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save(cast(dtype), tmp_path / "low.pt")
    fitted = read(tmp_path / "low.pt")
    assert f"converted 14 tensors from {str(dtype).removeprefix('torch.')}" in fitted.summary
    assert fitted.epsilon == torch.finfo(dtype).eps
    assert (logits_of(fitted) - LOGITS).abs().max() < 4 * fitted.epsilon * LOGITS.abs().max()


def shards(folder: Path) -> Path:
    """A network in two files, as libraries of Hugging Face save large ones."""
    folder.mkdir()
    names = list(WEIGHTS)
    files = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for file, part in files.items():
        save_file({name: WEIGHTS[name] for name in part}, folder / file)
    table = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "config.json").write_text("{}")
    return folder


def test_folders_and_indices_are_read(tmp_path: Path) -> None:
    folder = shards(tmp_path / "sharded")
    for path in (folder, folder / "model.safetensors.index.json"):
        assert "safetensors in 2 files, took 16 tensors" in read(path).summary
        assert torch.equal(logits_of(read(path)), LOGITS)
    first = read_weights(folder).sha256()
    save_file({"fc.bias": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")
    assert read_weights(folder / "model-00001-of-00002.safetensors").sha256() != first
    with pytest.raises(ZskdError, match=r"00002-of-00002.safetensors lacks '"):
        read(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ZskdError, match=r"00002.safetensors is missing: .* needs 2 files"):
        read(folder)
    with pytest.raises(ZskdError, match=r"another architecture \(7 of the network's 16 tensors are there"):
        read(folder / "model-00001-of-00002.safetensors")

    accelerate = tmp_path / "accelerate"
    accelerate.mkdir()
    for file, what in {
        "pytorch_model.bin": WEIGHTS,
        "optimizer.bin": {"state": {}},
        "scheduler.bin": {},
    }.items():
        torch.save(what, accelerate / file)
    assert torch.equal(logits_of(read(accelerate)), LOGITS)
    (tmp_path / "one").mkdir()
    torch.save(WEIGHTS, tmp_path / "one" / "checkpoint")
    (tmp_path / "one" / "notes.txt").write_text("best run")
    assert torch.equal(logits_of(read(tmp_path / "one")), LOGITS)
    torch.save(WEIGHTS, tmp_path / "one" / "last.ckpt")
    with pytest.raises(
        ZskdError, match=r"no single file of weights \(checkpoint, last.ckpt\): give the file"
    ):
        read(tmp_path / "one")


def test_an_index_names_no_files_elsewhere(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "outside.bin")
    (tmp_path / "in").mkdir()
    for name in ("../outside.bin", str(tmp_path / "outside.bin"), 7):
        index = {"weight_map": dict.fromkeys(WEIGHTS, name)}
        (tmp_path / "in" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        with pytest.raises(ZskdError, match="names a file outside of its folder"):
            read(tmp_path / "in")


def test_of_several_copies_one_is_taken_and_the_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "several.pth"
    torch.save({"model": spoilt(), "model_ema": under("module.") | {"n_averaged": torch.tensor(9)}}, path)
    assert "took 'model_ema' (16 tensors)" in read(path).summary
    assert "also holds 'model': take it with --weights model" in read(path).summary
    assert torch.equal(logits_of(read(path)), LOGITS)
    assert read(path, "model").taken == "model"
    assert not torch.equal(logits_of(read(path, "model")), LOGITS)
    with pytest.raises(ZskdError, match="holds no weights 'ema': there are 'model', 'model_ema'"):
        read(path, "ema")

    torch.save({"state_dict": spoilt(), "state_dict_ema": WEIGHTS, "optimizer": {"exp_avg": WEIGHTS}}, path)
    assert read(path).taken == "state_dict_ema"
    assert "exp_avg" not in read(path).summary
    torch.save({"last": spoilt(), "best_weights": WEIGHTS, "first": spoilt()}, path)
    assert read(path).taken == "best_weights"
    assert "also holds 'last', 'first': take another with --weights KEY" in read(path).summary
    # an average of the parameters alone is no copy of a network with batch-norm
    torch.save({"ema": {n: v.detach() for n, v in NET.named_parameters()}, "net": WEIGHTS}, path)
    assert read(path).taken == "net"
    torch.save({"student": under("module.", spoilt()), "teacher": under("backbone.")}, path)
    assert read(path).taken == "teacher"
    # copies in one dictionary
    torch.save(under("student.", spoilt()) | under("student_ema."), path)
    assert read(path).taken == "student_ema"
    assert read(path, "student").taken == "student"
    torch.save(spoilt() | under("ema."), path)
    assert torch.equal(logits_of(read(path)), LOGITS)
    assert not torch.equal(logits_of(read(path, ".")), LOGITS)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("kind", ["weight_norm", "parametrization", "pruned"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_in_two_parts_are_folded(kind: str, tmp_path: Path) -> None:
    from torch.nn.utils import parametrizations, prune, weight_norm

    net = Plain().eval()
    if kind == "weight_norm":
        weight_norm(net.conv)
        weight_norm(net.fc, dim=None)
    elif kind == "parametrization":
        parametrizations.weight_norm(net.conv)
        parametrizations.weight_norm(net.fc, dim=1)
    else:
        prune.l1_unstructured(net.conv, "weight", 0.5)
        prune.random_unstructured(net.fc, "weight", 0.5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
        expected = net(INPUTS)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "parts.pth")
    fitted = fit_weights(Plain(), read_weights(tmp_path / "parts.pth"))
    assert "folded 2 weights held in two parts" in fitted.summary
    plain = Plain()
    plain.load_state_dict(fitted.tensors)
    torch.testing.assert_close(plain(INPUTS), expected)
    if kind != "pruned":  # a network with the other way of weight normalisation
        other = Plain()
        (parametrizations.weight_norm if kind == "weight_norm" else weight_norm)(other.conv)
        other.load_state_dict(fit_weights(other, read_weights(tmp_path / "parts.pth")).tensors)
        torch.testing.assert_close(other.conv(INPUTS), net.conv(INPUTS))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight


def test_a_shared_tensor_may_be_saved_once(tmp_path: Path) -> None:
    net = Tied()
    save_file({n: v for n, v in net.state_dict().items() if n != "two.weight"}, tmp_path / "t.safetensors")
    fitted = fit_weights(Tied(), read_weights(tmp_path / "t.safetensors"))
    assert torch.equal(fitted.tensors["two.weight"], net.one.weight)


def test_a_network_inside_wrappers_reads_bare_weights(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "bare.pt")
    wrapped = nn.DataParallel(Net())
    wrapped.load_state_dict(fit_weights(wrapped, read_weights(tmp_path / "bare.pt")).tensors)
    assert torch.equal(wrapped.module.fc.weight, NET.fc.weight)


def resnet_names() -> Weights:
    blocks = {f"layer{n}.{i}.conv1.weight": torch.zeros(2, 2) for n in range(1, 5) for i in range(2)}
    return {"conv1.weight": torch.zeros(64, 3, 7, 7), **blocks, "fc.weight": torch.zeros(1000, 512)}


def quantised() -> Weights:
    net = nn.Sequential(collections.OrderedDict(fc=nn.Linear(24, 10)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to move this elsewhere
        dynamic: nn.Module = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
    return dynamic.state_dict()


def cut(path: Path, keep: float = 0.6) -> None:
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def cut_old(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-40])


def cut_safetensors(path: Path) -> None:
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-40])


def again_zipped(path: Path) -> None:
    """A torch archive that was unpacked and packed with compression."""
    torch.save(WEIGHTS, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content)


def data(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def zipped(**records: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in records.items():
                archive.writestr(name.replace("__", "."), content)

    return write


ONNX = bytes.fromhex("0808 1207") + b"pytorch" + bytes.fromhex("1a05 322e 302e 30")
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "param_list.pth": (saved([p.detach() for p in NET.parameters()]), "10 tensors in a list, without names"),
    "optimiser.pth": (
        saved({"optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []}}),
        "the state of an optimiser, not a network",
    ),
    "missing.pth": (
        saved({n: v for n, v in WEIGHTS.items() if "features.4" not in n}),
        r"another architecture \(14 of the network's 16 tensors are there; 2 tensors are missing, e.g. feat",
    ),
    "more.pth": (
        saved({"net": WEIGHTS | {"features.9.weight": torch.ones(3)}}),
        r"16 of the .* tensors are there in 'net'; 1 are not in the network, e.g. features.9.weight",
    ),
    "classes.pth": (
        saved(under("module.", Net(100).state_dict())),
        r"14 of the .* are there; fc.weight is \(100, 24\) in the file and \(10, 24\) in the network",
    ),
    "resnet18.pth": (
        saved(resnet_names()),
        "look like a ResNet-18 of torchvision or timm: name the right one with",
    ),
    "unlike.pth": (
        saved({"a": torch.ones(3)}),
        r"none of the network's 16 tensors is among its 1, e.g. features.0",
    ),
    "nan.pth": (
        saved(WEIGHTS | {"fc.bias": torch.full((10,), float("nan"))}),
        "'fc.bias' holds values that are not",
    ),
    "inf.pth": (saved(WEIGHTS | {"fc.bias": torch.full((10,), float("inf"))}), "not finite"),
    "overflow.pth": (
        saved(WEIGHTS | {"fc.bias": torch.full((10,), 1e39, dtype=torch.float64)}),
        "'fc.bias' holds values in torch.float64 that are too large for float32",
    ),
    "integers.pth": (
        saved({n: v.long() for n, v in WEIGHTS.items()}),
        "torch.int64, and the network needs torch.float32",
    ),
    "complex.pth": (
        saved(WEIGHTS | {"fc.bias": torch.ones(10, dtype=torch.complex64)}),
        "torch.complex64, and",
    ),
    "float8.pth": (
        saved(WEIGHTS | {"fc.bias": torch.ones(10).to(torch.float8_e4m3fn)}),
        "holds torch.float8_e4m3fn: give",
    ),
    "meta.pth": (saved(Net().to("meta").state_dict()), r"has a shape but no values \(device meta\)"),
    "sparse.pth": (saved(WEIGHTS | {"fc.weight": WEIGHTS["fc.weight"].to_sparse()}), "'fc.weight' is sparse"),
    "quantised.pth": (saved(quantised()), "a quantised network, whose weights are integers"),
    "qint8.pth": (
        saved(WEIGHTS | {"fc.bias": torch.quantize_per_tensor(torch.ones(10), 0.1, 0, torch.qint8)}),
        "'fc.bias' is quantised: give the weights in float32",
    ),
    "lora.pth": (saved({"fc.lora_A.weight": torch.ones(3, 3)}), "an adapter"),
    "no_tensors.pth": (saved({"epoch": 3}), "holds no named tensors"),
    "lone.pth": (saved(torch.ones(3)), "holds no named tensors"),
    "options.pkl": (pickled(Options(), 4), "holds no named tensors. It names code, which was not run"),
    "empty.pt": (data(b""), "is empty: copy or download it again"),
    "cut.pt": (cut, "is a zip archive without its end: copy or download it again"),
    "cut_old.pt": (cut_old, "is no complete pickle .its end is missing.: copy or download it again"),
    "cut.safetensors": (cut_safetensors, "not a complete safetensors file"),
    "compressed.pt": (again_zipped, "its tensors are compressed: save the weights again with torch.save"),
    "lfs.pt": (
        text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "Git LFS pointer.*git lfs pull",
    ),
    "page.pt": (
        text("<!DOCTYPE html><html><body>404</body></html>"),
        "is a web page .*: the download failed",
    ),
    "config.pt": (text('{"architectures": ["ResNet"]}'), "is a JSON file, not weights"),
    "notes.pt": (text("accuracy 98.3 für τ = 4\n"), "is a text file, not weights"),
    "random.pt": (
        data(bytes(range(255, 100, -1))),
        "no file of weights in a known format .it begins with ff fe",
    ),
    "net.h5": (data(b"\x89HDF\r\n\x1a\n" + bytes(600)), "is an HDF5 file .Keras, .h5.*onnx:FILE"),
    "v73.mat": (data(b"MATLAB 7.3 MAT-file".ljust(512) + b"\x89HDF\r\n\x1a\n"), "MATLAB 7.3.*-v7"),
    "net.onnx": (data(ONNX), "is an ONNX network: give it as onnx:FILE"),
    "net.gguf": (data(b"GGUF" + bytes(30)), "GGUF"),
    "net.pt.gz": (lambda p: p.write_bytes(gzip.compress(b"x" * 99)), "compressed with gzip: unpack it"),
    "net.tar": (data(bytes(257) + b"ustar" + bytes(300)), "is a tar archive: unpack it"),
    "one.npy": (lambda p: np.save(p.open("wb"), np.ones(3)), "is a NumPy file without names"),
    "names.npz": (lambda p: np.savez(p.open("wb"), np.ones(3)), "holds arrays without names"),
    "objects.npz": (
        lambda p: np.savez(p.open("wb"), a=np.array([{}], dtype=object)),
        "no array of plain numbers",
    ),
    "photos.zip": (
        zipped(cat__png=b"1", dog__png=b"2"),
        "is a zip archive with 'cat.png', 'dog.png' inside, not weights",
    ),
    "net.keras": (zipped(config__json=b"{}", model__weights__h5=b""), "a network of Keras"),
    "saved_model.pb": (data(b"\x08\x01\x12\x07"), "TensorFlow"),
}


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_is_no_such_network_is_told_in_one_true_line(name: str, tmp_path: Path) -> None:
    write, message = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(ZskdError, match=message) as refused:
        read(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert name in str(refused.value)


def test_a_network_without_norm_does_not_take_the_weights_of_one_with_it(tmp_path: Path) -> None:
    """Its names are all there; the statistics that are not its own make another network."""
    with_norm = nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    torch.save({"state_dict": under("module.", with_norm.state_dict())}, tmp_path / "norm.pth")
    without = nn.Sequential(collections.OrderedDict(conv=nn.Conv2d(3, 4, 3)))
    with pytest.raises(
        ZskdError, match="5 are not in the network|4 are not in the network, e.g. norm.weight"
    ):
        fit_weights(without, read_weights(tmp_path / "norm.pth"))


def test_names_in_messages_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    torch.save({"\x1b[31mred\n" + "x" * 500: WEIGHTS["fc.bias"]}, tmp_path / "ansi.pth")
    with pytest.raises(ZskdError) as refused:
        read(tmp_path / "ansi.pth")
    torch.save({"\x1b[31m": WEIGHTS, "x": spoilt()}, tmp_path / "ansi.pth")
    summary = read(tmp_path / "ansi.pth").summary
    for line in (str(refused.value), summary):
        assert line.isprintable()
        assert len(line) < 600
