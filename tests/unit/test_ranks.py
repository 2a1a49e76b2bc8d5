"""Ranks, the processes that train one student together, see the pictures of one, and make its student."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from conftest import StopAt, Stopped, wait_for
from limits import LIMIT
from warm import KILL, python, zskd
from zskd.cli.distill import _check_ranks
from zskd.cli.main import main as run
from zskd.config.distillation import DistillConfig, GeneratorConfig, ImageBankConfig
from zskd.config.loading import load_recipe
from zskd.config.sources import FreshConfig, ReplayConfig
from zskd.config.transforms import AugmentConfig
from zskd.core.device import use_threads
from zskd.core.errors import ZskdError
from zskd.core.progress import Progress, Task
from zskd.core.ranks import ALONE, Ranks
from zskd.core.tensors import read_tensors
from zskd.distillation.batches import DistillationBatches
from zskd.distillation.build import build_student
from zskd.distillation.division import check_division
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import read_card
from zskd.models.classifier import Classifier
from zskd.models.modes import frozen
from zskd.training.batches import Batches, Order
from zskd.training.division import dropout_of
from zskd.training.state import Done, load_state, save_state
from zskd.transfer_set.dataset import TransferSet

TOLERANCE = 1e-5
"""Largest difference of a weight. A sum over images is taken in parts, so it rounds otherwise, by some 1e-7,
and the steps of the optimiser carry that on. Bytes are equal for the same number of ranks only."""
SPEC = StudentSpec(student="half", distill=DistillConfig(start="random", steps=31, batch_size=10))
OPTIONS = ("--distill.start", "random", "--distill.batch-size", "10", "--threads", "1", "--workers", "1")


class Started:
    """Processes as `torchrun` starts them; this one holds the store, as `torchrun` does."""

    def __init__(self, commands: list[list[str]]) -> None:
        self.store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        world = str(len(commands))
        agent = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(self.store.port), "WORLD_SIZE": world}
        agent |= {
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "LOCAL_WORLD_SIZE": world,
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self.processes = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, **agent, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, command in enumerate(commands)
        ]

    def end(self) -> tuple[list[int], list[str], list[str]]:
        """Return exit codes, outputs and the lines of all standard errors."""
        told = [one.communicate(timeout=LIMIT) for one in self.processes]
        codes = [one.returncode for one in self.processes]
        return codes, [out for out, _ in told], [line for _, err in told for line in err.splitlines()]


def command(teacher: Path, images: Path, out: Path, *more: object) -> list[str]:
    return [*zskd(), "distill", str(teacher), str(images), "--out", str(out), *OPTIONS, *map(str, more)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")


def assert_same_student(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=TOLERANCE)


@pytest.fixture(scope="module")
def alone(teacher_folder: Path, small_set: TransferSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of one process, from the command line."""
    out = tmp_path_factory.mktemp("alone") / "student"
    arguments = command(teacher_folder, small_set.folder, out, "--distill.steps", 10, "--no-estimate")
    assert run(arguments[len(zskd()) :]) == 0
    return out


# what a rank sees


@pytest.mark.parametrize("world", [2, 3, 4])
def test_the_parts_of_all_ranks_are_the_batch_of_one_process(
    world: int, teacher: Classifier, small_set: TransferSet
) -> None:
    augment = AugmentConfig(
        rotation=10.0, crop=0.1, brightness=0.2, cutout=0.3, gaussian=0.1, jpeg=0.5, mixup=0.5, cutmix=0.5
    )
    config = DistillConfig(batch_size=11, augment=augment, fresh=FreshConfig(share=0.3))

    def batches(ranks: Ranks) -> Batches:
        made = DistillationBatches(teacher, small_set, config, ranks=ranks)
        made.attach_student(teacher, seed=0, steps=9)
        return Batches(Order(config.batch_size, len(small_set), seed=5), made, seed=5)

    whole, parts = batches(ALONE), [batches(Ranks(rank, world, world)) for rank in range(world)]
    with frozen(teacher):
        for step in (0, 1, 8):
            images, logits, labels = whole[step]
            of_ranks = [part[step] for part in parts]
            assert [len(one[0]) for one in of_ranks] == [
                len(range(11)[Ranks(rank, world).part(11)]) for rank in range(world)
            ]
            assert torch.equal(torch.cat([one[0] for one in of_ranks]), images)
            assert torch.equal(torch.cat([one[2] for one in of_ranks]), labels)
            torch.testing.assert_close(torch.cat([one[1] for one in of_ranks]), logits)


@pytest.mark.parametrize(("count", "world"), [(8, 1), (8, 2), (10, 4), (7, 3)])
def test_every_row_belongs_to_one_rank(count: int, world: int) -> None:
    ranks = [Ranks(rank, world) for rank in range(world)]
    assert [row for one in ranks for row in range(count)[one.part(count)]] == list(range(count))
    assert sum(one.share(count) for one in ranks) == pytest.approx(1)


def test_each_rank_has_masks_of_dropout_of_its_own() -> None:
    names = [dropout_of(Ranks(rank, 3)) for rank in range(3)]
    assert len(set(names)) == 3
    assert names[0] == dropout_of(ALONE) == "dropout"


# students of several ranks


def test_torchrun_trains_the_student_of_one_process(
    teacher_folder: Path, small_set: TransferSet, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    launcher = [
        *python(),
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
    ]
    arguments = command(teacher_folder, small_set.folder, out, "--distill.steps", 10, "--no-estimate")
    done = subprocess.run(
        [*launcher, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("student in ") == 1
    assert done.stderr.count("copied into memory") == 1
    assert sorted(one.name for one in out.iterdir()) == sorted(one.name for one in alone.iterdir())
    assert_same_student(alone, out)
    cards = [json.loads((folder / "card.json").read_text()) for folder in (alone, out)]
    assert cards[1]["origin"].pop("ranks") == 2
    assert cards[0]["origin"] == cards[1]["origin"]  # the same passes, too
    curves = [json.loads((folder / "curve.json").read_text())["losses"] for folder in (alone, out)]
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_four_ranks_with_parts_of_different_sizes_train_the_same_student(
    teacher_folder: Path, small_set: TransferSet, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    one = command(teacher_folder, small_set.folder, out, "--distill.steps", 10, "--no-estimate")
    codes, outputs, errors = Started([one] * 4).end()
    assert codes == [0] * 4, errors
    assert [bool(text) for text in outputs] == [True, False, False, False]
    assert_same_student(alone, out)


TWO = """
import shutil, sys
from contextlib import suppress
from pathlib import Path
import torch
from zskd.config.distillation import DistillConfig
from zskd.core.progress import Progress
from zskd.core.ranks import Ranks
from zskd.core.torchrun import Launch
from zskd.distillation.build import build_student
from zskd.distillation.spec import StudentSpec
from zskd.models.checkpoint import load_checkpoint
from zskd.training.division import average
from zskd.transfer_set.dataset import TransferSet

class Stop(Progress):
    listens = True
    def note(self, name, value, step):
        if step >= 25:
            raise KeyError

def train(name, progress=None):
    build_student(teacher, spec, images, folder / name, ranks=ranks, progress=progress)

torch.set_num_threads(1)
Launch.of_environment().join()
ranks, (teacher, images, folder) = Ranks.joined(), map(Path, sys.argv[1:])
teacher, images = load_checkpoint(teacher)[0].freeze(), TransferSet(images)
spec = StudentSpec(student="half", distill=DistillConfig(start="random", steps=31, batch_size=10))
train("straight")
with suppress(KeyError):
    train("resumed", Stop())
ranks.once(lambda: shutil.copytree(folder / "resumed", folder / "begun-by-two") and None)
train("resumed")
train("begun-by-one")

torch.manual_seed(0)
first, norm, last = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3, momentum=0.5), torch.nn.Linear(3, 2)
inputs = torch.randn(5, 4)
between = first(inputs[ranks.part(5)])
last(between).square().mean().backward()  # nothing reaches batch-norm
norm(between)
average([first, norm, last], ranks, ranks.share(5))
if ranks.first:
    gradients = {"first": first.weight.grad, "last": last.weight.grad, "norm": norm.weight.grad}
    made = {"inputs": inputs, "layers": [first.state_dict(), last.state_dict()], "mean": norm.running_mean}
    torch.save(made | gradients, folder / "averaged.pt")
"""


class Begun(Progress):
    """Keeps how many steps were done when a training began."""

    done = -1

    @contextmanager
    def task(self, title: str, total: int, unit: str, done: int = 0) -> Iterator[Task]:
        self.done = done
        with super().task(title, total, unit, done) as task:
            yield task


@pytest.fixture(scope="module")
def trained(
    teacher: Classifier,
    teacher_folder: Path,
    small_set: TransferSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What two ranks have made; they resume a training of one, and leave one for another."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.raises(Stopped):
        build_student(teacher, SPEC, small_set, folder / "begun-by-one", progress=StopAt(25))
    code = [*python(), "-c", TWO, str(teacher_folder), str(small_set.folder), str(folder)]
    codes, _, errors = Started([code] * 2).end()
    assert codes == [0, 0], errors
    return folder


def test_a_training_that_two_ranks_stop_and_resume_gives_the_same_bytes(trained: Path) -> None:
    one, other = (
        {path.name: path.read_bytes() for path in (trained / name).iterdir()}
        for name in ("straight", "resumed")
    )
    assert set(one) == {"card.json", "curve.json", "model.safetensors"}
    assert one == other


def test_another_number_of_ranks_resumes_a_training(
    trained: Path, teacher: Classifier, small_set: TransferSet, tmp_path: Path
) -> None:
    begun = Begun()
    with use_threads(2):  # their number does not matter either
        build_student(teacher, SPEC, small_set, trained / "begun-by-two", progress=begun)
    assert begun.done == 20
    build_student(teacher, SPEC, small_set, tmp_path / "one")
    for folder in (tmp_path / "one", trained / "begun-by-two", trained / "begun-by-one"):
        assert_same_student(trained / "straight", folder)
    passes = {str(read_card(one).origin.passes) for one in (tmp_path / "one", *trained.glob("*-*"))}
    assert len(passes) == 1


def test_gradients_and_running_means_are_those_of_the_whole_batch(trained: Path) -> None:
    made = torch.load(trained / "averaged.pt")
    first, last = nn.Linear(4, 3), nn.Linear(3, 2)
    for layer, known in zip((first, last), made["layers"], strict=True):
        layer.load_state_dict(known)
    between = first(made["inputs"])
    last(between).square().mean().backward()
    torch.testing.assert_close(made["first"], first.weight.grad)
    torch.testing.assert_close(made["last"], last.weight.grad)
    torch.testing.assert_close(made["mean"], between.mean(0).detach() / 2)
    assert not made["norm"].any()


def test_one_process_leaves_the_state_of_another_number_of_threads(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    learners = {"": (network, None)}
    for saved, asked, done in ((1, 1, 2), (1, 2, 0), (None, 2, 2), (1, None, 2)):
        save_state(tmp_path / "state", "key", learners, Done([0.5, 0.4]), threads=saved)
        assert len(load_state(tmp_path / "state", "key", learners, threads=asked).losses) == done


# what goes wrong


def test_where_a_rank_is_killed_the_others_end_with_one_line(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path
) -> None:
    one = command(teacher_folder, small_set.folder, tmp_path / "student", "--distill.steps", 10**6)
    ranks = Started([one] * 2)
    wait_for((tmp_path / "student" / "training.safetensors").is_file, ranks.processes[0])
    ranks.processes[1].send_signal(KILL)
    codes, outputs, errors = ranks.end()
    assert codes[0] == 2
    assert outputs == ["", ""]
    assert [line for line in errors if "zskd: error" in line] == [
        "zskd: error: another process of this training has ended: give the same command again to resume"
    ]


def test_a_mistake_that_one_rank_finds_is_told_once(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path
) -> None:
    commands = [command(teacher_folder, one, tmp_path / "student") for one in (small_set.folder, tmp_path)]
    codes, outputs, errors = Started(commands).end()
    assert codes == [2, 2]
    assert outputs == ["", ""]
    (line,) = [one for one in errors if "error" in one]
    assert line.startswith(f"zskd: error: {tmp_path}/manifest.json is missing")


def test_ctrl_c_is_told_once(teacher_folder: Path, small_set: TransferSet, tmp_path: Path) -> None:
    one = command(teacher_folder, small_set.folder, tmp_path / "student", "--distill.steps", 10**6)
    ranks = Started([one] * 2)
    wait_for((tmp_path / "student" / "training.safetensors").is_file, ranks.processes[0])
    for process in ranks.processes:
        process.send_signal(signal.SIGINT)
    codes, _, errors = ranks.end()
    assert codes == [130, 130], errors
    assert errors.count("stopped. Finished parts are kept; to resume: give the same command again") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "digits", "--out", "run"], "start zskd run without torchrun"),
        (["--version"], "start zskd --version without torchrun"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_other_verbs_tell_that_they_do_not_divide_their_work(
    rank: int,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started_as(monkeypatch, RANK=str(rank))
    assert run(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    if rank:
        assert streams.err == ""
    else:
        only = "torchrun starts 2 processes, and only zskd distill divides its work among them"
        assert streams.err == f"zskd: error: {only}: {told}\n"


def test_a_rank_that_is_no_number_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started_as(monkeypatch, RANK="one")
    assert run(["distill", "teacher", "--out", "student"]) == 2
    assert capsys.readouterr().err == (
        "zskd: error: the environment variable RANK is no number: torchrun sets it\n"
    )


def test_one_process_of_torchrun_is_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    started_as(monkeypatch, WORLD_SIZE="1")
    assert run(["--version"]) == 0
    assert Ranks.joined() == ALONE


def started_as(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    known = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (known | variables).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (DistillConfig(start="random", generator=GeneratorConfig(share=1.0)), "--distill.generator.share: "),
        (DistillConfig(image_bank=ImageBankConfig(share=0.2)), "--distill.image-bank.share: "),
        (DistillConfig(replay=ReplayConfig(share=0.2)), "--distill.replay.share: "),
        (DistillConfig(batch_size=7), "--distill.batch-size is 7: 4 processes need at least 8"),
    ],
)
def test_what_cannot_be_divided_is_refused(config: DistillConfig, told: str) -> None:
    check_division(config, ALONE)
    with pytest.raises(ZskdError, match=rf"^{re.escape(told)}") as error:
        check_division(config, Ranks(1, 4))
    assert "\n" not in str(error.value)


def test_settings_of_one_process_are_refused_once(
    teacher_folder: Path, small_set: TransferSet, tmp_path: Path
) -> None:
    refused = (("--budget", "3"), ("--device", "cuda:1"))
    commands = [command(teacher_folder, small_set.folder, tmp_path / "student", *one) for one in refused]
    codes, _, errors = Started(commands).end()
    assert codes == [2, 2]
    (line,) = [one for one in errors if "error" in one]
    assert line.startswith(("zskd: error: --budget measures one", "zskd: error: --device cuda:1 is one GPU"))


def test_ranks_write_to_no_address() -> None:
    recipe = load_recipe("digits")
    _check_ranks(recipe, "s3://bucket/student", ALONE)
    with pytest.raises(ZskdError, match=r"zskd\.upload"):
        _check_ranks(recipe, "s3://bucket/student", Ranks(0, 2))
