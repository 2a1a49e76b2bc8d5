"""Pictures: written, readable, the same for the same input, and captioned with what is in them."""

import copy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from zskd.core.errors import ZskdError
from zskd.evaluation.figures import (
    Bar,
    Point,
    bars_figure,
    caption,
    filmstrip_figure,
    grid_figure,
    save_figure,
    similarity_figure,
    sizes_figure,
)
from zskd.evaluation.statistics import Share, share_of
from zskd.run.metrics import read_metrics
from zskd.run.tables import agreement_table

RESULTS = Path(__file__).parents[2] / "results"
DIGITS = tuple("0123456789")


def heat(k: int = 4, names: tuple[str, ...] | None = None) -> Figure:
    values = np.random.default_rng(0).uniform(-1, 1, (k, k))
    return similarity_figure(values, names or tuple(map(str, range(k))), "similarity")


def samples(n: int = 5, channels: int = 1) -> Figure:
    images = torch.rand(n, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return grid_figure(images, [f"'{i}' 0.5" for i in range(n)], "samples", columns=3)


def bars() -> Figure:
    rows = [Bar("ZSKD", share_of(960, 1000), True), Bar("noise", share_of(0, 1000), False)]
    return bars_figure(
        [*rows, Bar("all", share_of(7, 7), False)], ("teacher", share_of(1000, 1000)), "accuracy"
    )


def sizes() -> Figure:
    points = [Point("narrow:0.5", (90.0, 12.0), share_of(49, 50)), Point("$8", (30.0, 1.0), share_of(1, 50))]
    return sizes_figure((1, 64), (100.0, 20.0), points)


ALL = {"heat": heat, "samples": samples, "bars": bars}


@pytest.mark.parametrize("name", list(ALL))
def test_png_files_are_readable_and_hold_a_drawing(tmp_path: Path, name: str) -> None:
    path = save_figure(ALL[name](), tmp_path / "new" / "a.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 100
    assert pixels.std() > 5
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", list(ALL))
def test_svg_files_are_xml(tmp_path: Path, name: str) -> None:
    root = ElementTree.parse(save_figure(ALL[name](), tmp_path / "a.svg")).getroot()
    assert root.tag.endswith("svg")
    assert len(list(root.iter())) > 50


def test_pdf_files_are_pdf(tmp_path: Path) -> None:
    assert save_figure(bars(), tmp_path / "a.pdf").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize("ending", [".png", ".svg", ".pdf", ".SVG"])
@pytest.mark.parametrize("name", list(ALL))
def test_the_same_picture_is_the_same_file(tmp_path: Path, name: str, ending: str) -> None:
    first = save_figure(ALL[name](), tmp_path / f"a{ending}").read_bytes()
    assert save_figure(ALL[name](), tmp_path / f"b{ending}").read_bytes() == first
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("name", ["a.jpg", "a.txt", "a", "a.png.gz"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ZskdError, match=r"pictures are written as \.png, \.svg, \.pdf"):
        save_figure(bars(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ZskdError, match="cannot create the folder"):
        save_figure(bars(), tmp_path / "file" / "a.png")


def test_a_long_caption_has_a_line_for_each_class() -> None:
    texts = ["'automobile' 0.71  'truck' 0.20", "'cat' 1.00  'dog' 0.00"]
    figure = grid_figure(torch.rand(2, 1, 8, 8), texts, "", columns=2)
    assert [axes.get_title() for axes in figure.axes] == [text.replace("  ", "\n") for text in texts]
    short = grid_figure(torch.rand(2, 1, 8, 8), ["'3' 0.71  '8' 0.20"] * 2, "", columns=2)
    assert {axes.get_title() for axes in short.axes} == {"'3' 0.71  '8' 0.20"}
    assert figure.get_figwidth() < 2 * 0.082 * len(texts[0])


def test_captions_tell_the_two_strongest_classes() -> None:
    target = torch.tensor([0.0, 0.01, 0.02, 0.71, 0.0, 0.0, 0.06, 0.0, 0.20, 0.0])
    assert caption(target, DIGITS) == "'3' 0.71  '8' 0.20"
    assert caption(torch.tensor([0.25, 0.75]), ("cat", "dog")) == "'dog' 0.75  'cat' 0.25"


def test_the_cells_of_a_heat_map_carry_their_numbers_up_to_twenty_classes() -> None:
    values = np.array([[1.0, -0.25], [0.5, 1.0]])
    texts = [t.get_text() for t in similarity_figure(values, ("a", "b"), "t").axes[0].texts]
    assert texts == ["1.00", "-0.25", "0.50", "1.00"]
    assert len(heat(20).axes[0].texts) == 400
    assert len(heat(21).axes[0].texts) == 0


def test_a_heat_map_names_its_classes_on_both_axes(tmp_path: Path) -> None:
    names = ("T-shirt/top", "Trouser", "größe", "a long name of a class")
    axes = heat(4, names).axes[0]
    assert tuple(t.get_text() for t in axes.get_xticklabels()) == names
    assert tuple(t.get_text() for t in axes.get_yticklabels()) == names
    assert axes.get_title() == "similarity"


@pytest.mark.parametrize("k", [2, 21, 100])
def test_few_and_many_classes_can_be_drawn(tmp_path: Path, k: int) -> None:
    path = save_figure(heat(k), tmp_path / "a.png")
    with Image.open(path) as picture:
        assert 200 < picture.width < 2500


def test_a_matrix_of_equal_values_can_be_drawn(tmp_path: Path) -> None:
    assert save_figure(similarity_figure(np.ones((3, 3)), ("a", "b", "c"), "t"), tmp_path / "a.png").is_file()


@pytest.mark.parametrize("name", ["$100", "$x$", "$\\bad$", "50 %", "a_b^c", "<b>"])
def test_class_names_that_look_like_markup_can_be_drawn(tmp_path: Path, name: str) -> None:
    save_figure(heat(2, (name, "b")), tmp_path / "a.png")
    images = torch.zeros(1, 1, 4, 4)
    save_figure(grid_figure(images, [f"'{name}' 0.71"], "t", 3), tmp_path / "b.png")


def test_colour_samples_are_drawn_in_their_colours(tmp_path: Path) -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8).contiguous()
    path = save_figure(grid_figure(red, ["red"], "colours", columns=4), tmp_path / "a.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert (pixels == [255, 0, 0]).all(axis=1).sum() > 1000
    assert save_figure(samples(5, 3), tmp_path / "b.png").is_file()


def test_grey_samples_keep_one_scale_from_black_to_white(tmp_path: Path) -> None:
    dark = torch.full((1, 1, 8, 8), 0.2)
    path = save_figure(grid_figure(dark, [""], "", columns=1), tmp_path / "a.png")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert (pixels == 51).sum() > 1000


@pytest.mark.parametrize(("n", "rows"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_samples_fill_rows_of_the_given_length_and_each_has_its_caption(n: int, rows: int) -> None:
    figure = samples(n)
    assert [axes.get_title() for axes in figure.axes] == [f"'{i}' 0.5" for i in range(n)]
    places = [axes.get_subplotspec().get_geometry() for axes in figure.axes]
    assert {place[:2] for place in places} == {(rows, min(3, n))}
    assert [place[2] for place in places] == list(range(n))


def test_a_film_is_one_row() -> None:
    figure = filmstrip_figure(torch.rand(6, 1, 4, 4), list("abcdef"), "trace")
    assert {axes.get_subplotspec().get_geometry()[:2] for axes in figure.axes} == {(1, 6)}


def test_bars_are_as_long_as_their_shares_with_the_main_one_set_apart() -> None:
    axes = bars().axes[0]
    assert [bar.get_width() for bar in axes.patches] == [96.0, 0.0, 100.0]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] != colours[1] == colours[2]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["ZSKD  96.00", "noise  0.00", "all  100.00"]
    assert "(dashed: teacher, 100.00)" in axes.get_title()


def test_students_stand_at_their_time_and_agreement_beside_the_teacher(tmp_path: Path) -> None:
    figure = sizes()
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "µs per image, batch of 1",
        "µs per image, batch of 64",
    ]
    for axes, times in zip(figure.axes, ((100, 90, 30), (20, 12, 1)), strict=True):
        drawn = [
            (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() in "*os"
        ]
        assert drawn == list(zip(times, (100, 98, 2), strict=True))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["teacher", "narrow:0.5  98.00", "\\$8  2.00"]
    first = save_figure(figure, tmp_path / "a.png").read_bytes()
    assert save_figure(sizes(), tmp_path / "b.png").read_bytes() == first


def test_bars_can_do_without_a_teacher(tmp_path: Path) -> None:
    figure = bars_figure([Bar("ZSKD", share_of(1, 2), True)], None, "agreement")
    assert figure.axes[0].get_legend() is None
    assert save_figure(figure, tmp_path / "a.png").is_file()


def test_the_table_of_a_run_has_a_column_for_each_kind_that_it_measured() -> None:
    """Also of a run that was finished before there were random shapes."""
    older = read_metrics(RESULTS / "before-after" / "digits-0-after.json")
    newer = copy.deepcopy(older)
    for arm in newer.arms:
        arm.agreement["noise_shapes"] = Share(12.34, 11.0, 14.0, 500)
    before, after = (agreement_table(one) for one in (older, newer))
    assert before.head == ["arm", "held-out impressions", "smooth noise", "white noise"]
    assert after.head == ["arm", "held-out impressions", "smooth noise", "random shapes", "white noise"]
    assert {row[3] for row in after.rows} == {"12.34\n[11.00, 14.00]"}
