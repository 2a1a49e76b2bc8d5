"""Tables, comparisons and the picture of an experiment, from records whose numbers are known."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import run_zskd
from zskd.core.errors import ZskdError
from zskd.experiment.definition import load_experiment
from zskd.experiment.record import FORMAT, Record, pack_mask, record_path, write_record
from zskd.experiment.report.curves import curves_figure
from zskd.experiment.report.page import main_rate, sections, write_page
from zskd.experiment.report.tables import (
    Comparison,
    Records,
    accuracy_table,
    contrast_table,
    cost_table,
    provenance,
)

N = 200
SHA = "0" * 64


def record(arm: str, rate: float | None, seed: int, right: int, **changes: Any) -> Record:
    """A record of a student that gets the first `right` of 200 test images right."""
    count = 1000 if rate is None else round(10 * rate)
    values: dict[str, Any] = {
        "format": FORMAT,
        "experiment": "digits",
        "cell": f"{arm}-{seed}" if rate is None else f"{arm}-{rate:g}-{seed}",
        "key": SHA,
        "dataset": "digits",
        "arm": arm,
        "title": "as it was called then",
        "preset": "default",
        "method": "none" if arm == "teacher" else "zskd",
        "augmented": True,
        "rate": rate,
        "count": count,
        "unique_images": count,
        "seed": seed,
        "recipe_sha256": SHA,
        "teacher_sha256": SHA,
        "student_sha256": SHA,
        "student": "half",
        "student_parameters": 35820,
        "student_steps": 400,
        "selection": "last",
        "test_accuracy": 100 * right / N,
        "test_images": N,
        "test_hits": pack_mask(np.arange(N) < right),
        "teacher_accuracy": 99.0,
        "teacher_agreement": 90.0,
        "reported": None,
        "teacher_forwards": 2_000_000,
        "teacher_backwards": 500_000,
        "wall_seconds": 30.0,
        "set_seconds": 10.0,
        "workers": 2,
        "threads": 1,
        "versions": {"zskd": "0", "torch": "2", "python": "3"},
        "cpu": "a processor",
        "cores": 2,
        "commit": "0123456789abcdef",
        "command": "zskd reproduce digits",
        "date": "2026-01-01",
    }
    return Record.model_validate(values | changes)


def titled(found: list[Record], *arms: str) -> Records:
    return Records(found, {arm: f"the {arm}" for arm in arms})


@pytest.fixture
def records() -> Records:
    reported = {"value": 98.77, "source": "somebody 2019"}
    found = [
        record("teacher", None, 0, 198),
        *(record("default", 10, seed, right) for seed, right in enumerate((190, 192, 194))),
        *(record("default", 40, seed, right, reported=reported) for seed, right in enumerate((196, 195))),
        *(record("noise_smooth", 10, seed, right) for seed, right in enumerate((180, 181, 182))),
        record("real_kd", 40, 3, 197),
    ]
    return titled(found, "teacher", "real_kd", "noise_smooth", "default", "never_run")


def row(table: str, start: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_accuracies_stand_at_their_rate_with_spread_and_n(records: Records) -> None:
    table = accuracy_table(records)
    assert row(table, "arm") == ["arm", "10 %", "40 %", "all real images"]
    assert row(table, "*images*") == ["*images*", "100", "400", "1,000"]
    assert row(table, "the default") == ["the default", "96.00 ± 1.00 (n = 3)", "97.75 ± 0.35 (n = 2)", "–"]
    assert row(table, "the teacher") == ["the teacher", "–", "–", "99.00 (n = 1)"]
    assert "never_run" not in table


def test_images_of_a_generator_are_not_called_real(records: Records) -> None:
    one = record("no_data", None, 0, 100, method="dafl", count=25_600, unique_images=25_600)
    table = accuracy_table(titled([*records, one], "teacher", "default", "no_data"))
    assert row(table, "arm") == ["arm", "10 %", "40 %", "all real images", "generated images"]
    assert row(table, "*images*") == ["*images*", "100", "400", "1,000", "25,600"]
    assert row(table, "the no_data")[3:] == ["–", "50.00 (n = 1)"]
    assert row(table, "the teacher")[3:] == ["99.00 (n = 1)", "–"]


def test_what_was_reported_stands_below_what_was_measured(records: Records) -> None:
    lines = accuracy_table(records).splitlines()
    below = lines[lines.index(next(line for line in lines if line.startswith("| the default"))) + 1]
    assert below == "| *reported: somebody 2019* | – | *98.77* | – |"


def test_columns_without_anything_are_left_out(records: Records) -> None:
    assert row(accuracy_table(records, ["noise_smooth"]), "arm") == ["arm", "10 %"]


def test_rows_stand_in_the_order_of_the_experiment(records: Records) -> None:
    table = accuracy_table(records)
    places = [table.index(f"the {arm}") for arm in ("teacher", "real_kd", "noise_smooth", "default")]
    assert places == sorted(places)


def test_a_planned_comparison_is_paired_over_seeds(records: Records) -> None:
    """Differences 5, 5.5 and 6 points: mean 5.5, t₂ interval 5.5 ± 4.303·0.5/√3."""
    comparisons = [
        Comparison(("default", 10.0), ("noise_smooth", 10.0)),
        Comparison(("real_kd", 40.0), ("default", 40.0)),  # no seed in common
        Comparison(("default", 40.0), ("default", 10.0)),
    ]
    lines = contrast_table(records, comparisons).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][:5] == ["the default, 10 %", "the noise_smooth, 10 %", "3", "+5.50", "[+4.26, +6.74]"]
    assert cells[0][5] == "0.005"  # 2·P(|t₂| > 19.05) = 0.00274, twice by Holm's rule for two tests
    assert cells[0][6] == "10 / 0, 0.002"  # 2·2⁻¹⁰
    assert cells[1][2:] == ["0", "–", "–", "–", "–"]
    assert cells[2][2:4] == ["2", "+2.25"]


def test_costs_are_means_and_the_time_is_parted(records: Records) -> None:
    table = cost_table(records, 10.0)
    assert row(table, "the default") == ["the default", "100", "400", "2.00", "0.50", "10", "20"]
    assert "real_kd" not in table


def test_the_source_tells_machine_versions_and_commits() -> None:
    dirty = record("default", 10, 0, 190, commit="fedcba9876543210+")
    text = provenance(titled([dirty, record("default", 10, 1, 190)], "default"))
    assert "2 records" in text
    assert "01234567, fedcba98+" in text
    assert "35,820" in text
    assert "torch 2" in text


def test_the_rate_that_most_arms_have_is_the_main_one(records: Records) -> None:
    assert main_rate(records) == 40  # two arms each: the larger
    assert main_rate(titled([record("teacher", None, 0, 1)], "teacher")) is None


def test_the_picture_shows_mean_error_spread_and_what_was_reported(records: Records) -> None:
    (axes,) = curves_figure(records, records.arms, "title").axes
    lines = {container.get_label(): container.lines[0] for container in axes.containers}
    assert set(lines) == {"the default"}  # arms of one rate are left out where others have more
    assert lines["the default"].get_xydata() == pytest.approx(np.array([[100, 4.0], [400, 2.25]]))
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_xydata().tolist() for line in hollow] == [[[400, pytest.approx(1.23)]]]


def test_arms_of_one_rate_are_drawn_where_no_arm_has_more() -> None:
    only = titled([record("default", 10, 0, 190), record("real_kd", 10, 0, 195)], "default", "real_kd")
    (axes,) = curves_figure(only, only.arms, "title").axes
    assert len(axes.containers) == 2


def test_the_page_has_every_section_and_its_picture(records: Records, tmp_path: Path) -> None:
    experiment = load_experiment("digits")
    page = write_page(records, experiment, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert [title for title, _ in sections(records, experiment)] == re.findall(r"^## (.*)$", text, re.M)
    (picture,) = re.findall(r"\]\((.*?\.png)\)", text)
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_a_page_takes_the_place_of_its_earlier_version_alone(records: Records, tmp_path: Path) -> None:
    experiment, earlier = load_experiment("digits"), "# Experiment digits\n\n## A section of old\n"
    (tmp_path / "README.md").write_text(earlier)
    page = write_page(records, experiment, tmp_path)
    assert "A section of old" not in page.read_text()
    for mine in ("mine", "# Experiment digits and others\n", earlier.replace("digits", "mnist"), ""):
        page.write_text(mine)
        with pytest.raises(ZskdError, match="is no page about experiment digits and would be written over"):
            write_page(records, experiment, tmp_path)
        assert page.read_text() == mine


def test_the_verb_prints_what_the_records_say(tmp_path: Path) -> None:
    for seed, right in enumerate((190, 194)):
        one = record("default", 10, seed, right)
        write_record(record_path(tmp_path / "results", "digits", one.cell), one)
    done = run_zskd("report", "digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "96.00 ± 1.41 (n = 2)" in done.stdout
    assert run_zskd("report", "digits", "--out", "page", cwd=tmp_path).returncode == 0
    assert (tmp_path / "page" / "README.md").is_file()


def test_the_verb_reads_the_records_of_a_twin(tmp_path: Path) -> None:
    for experiment, right in (("digits", 190), ("digits-inverted", 150)):
        one = record("default", 10, 0, right, experiment=experiment)
        write_record(record_path(tmp_path / "results", experiment, one.cell), one)
    done = run_zskd("report", "digits", "--twin", "inverted", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "75.00 (n = 1)" in done.stdout
    assert "95.00" not in done.stdout


def test_the_page_says_how_many_teachers_the_seeds_share(records: Records) -> None:
    experiment = load_experiment("digits")
    several = Records([one.model_copy(update={"teacher_sha256": f"{one.seed:064x}"}) for one in records], {})
    own, shared = (
        dict(sections(those, one))["Test accuracy"]
        for those, one in (
            (several, experiment),
            (records, replace(experiment, teachers=(0, 0, 0))),
        )
    )
    assert "over seeds of teacher, images and student (n)" in own
    assert "over seeds of images and student (n), in percent. Seeds share teachers: there is 1." in shared


def test_one_seed_shares_its_teacher_with_no_other() -> None:
    one = titled([record("teacher", None, 0, 198), record("default", 10, 0, 190)], "teacher", "default")
    experiment = load_experiment("digits")
    assert experiment.seeds > 1
    for planned in (experiment, replace(experiment, teachers=(0, 0, 0))):
        assert "share" not in dict(sections(one, planned))["Test accuracy"]


def test_without_records_one_line_says_what_to_do(tmp_path: Path) -> None:
    for name in ("digits", "mnist"):
        done = run_zskd("report", name, cwd=tmp_path)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert f"no records of {name} in results/{name}: zskd reproduce makes them" in done.stderr
        one = record("default", 10, 0, 190)
        write_record(record_path(tmp_path / "results", "digits", one.cell), one)  # and then of another alone
