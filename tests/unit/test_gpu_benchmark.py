"""The benchmark of GPUs runs, on the CPU, all that it would run on a GPU; without one it says so."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_gpus", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:  # dataclasses look their module up, and it has neighbours
        patched.syspath_prepend(SCRIPT.parent)
        patched.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
    return module


def test_all_cases_run_on_the_cpu(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    assert script.main(["--device", "cpu", "--out", str(tmp_path / "record.json")]) == 0
    record = json.loads((tmp_path / "record.json").read_text("utf-8"))
    assert record.keys() >= {"date", "command", "commit", "versions", "processor", "gpu", "size", "cases"}
    assert record["gpu"] is None
    assert len(record["cases"]) == len(script.CASES)
    assert not [one for one in record["cases"] if "failed" in one]
    assert {(one["what"], one["precision"]) for one in record["cases"]} == {
        (what, precision)
        for what in ("networks", "synthesis", "distillation")
        for precision in ("float32", "bfloat16")
    }
    assert len(capsys.readouterr().out.splitlines()) == len(script.CASES) + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "gpu.py: this machine has no GPU: run the script on one, or try it with --device cpu\n"),
        (["--device", "cuda"], "gpu.py: --device cuda: this machine has no such device: give auto or cpu\n"),
    ],
)
def test_without_a_gpu_it_says_so(
    script: ModuleType,
    given: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "empty", fails)  # also where these tests have a GPU
    assert script.main(given) == 2
    assert capsys.readouterr().err == told
