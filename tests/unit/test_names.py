"""Names with arguments, and names of families: read, written, refused in one line, and never run."""

import keyword
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zskd.config.patterns import match_pattern
from zskd.config.recipe import Recipe
from zskd.config.registry import ARCHITECTURES, LOSSES, STUDENTS
from zskd.config.sizes import Auto, Budget, Share, read_size
from zskd.config.training import TeacherConfig
from zskd.core.code import format_call, is_code, parse_call
from zskd.core.errors import ZskdError
from zskd.distillation.spec import StudentSpec
from zskd.models.factory import Factory, Named, build, describe

WORDS = st.text(string.ascii_letters + "_", min_size=1, max_size=8).filter(lambda w: not keyword.iskeyword(w))
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | WORDS
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    name=st.sampled_from(["resnet20", "wrn-16-2", "net.py:build", "a (1)/net(2).py:build", "timm:a/b.c-d"]),
    arguments=st.dictionaries(WORDS, VALUES, max_size=3),
)
def test_what_is_written_is_read_again(name: str, arguments: dict[str, Any]) -> None:
    text = format_call(name, arguments)
    assert parse_call(text) == (name, arguments)
    assert format_call(*parse_call(text)) == text
    assert is_code(text) == (":" in name)


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("resnet20", "resnet20", {}),
        ("resnet20()", "resnet20", {}),
        ("resnet20( norm = group )", "resnet20", {"norm": "group"}),
        ("mlp(widths=(256,128))", "mlp", {"widths": (256, 128)}),
        ("net.py:build(depth=20, path='a:b(c)')", "net.py:build", {"depth": 20, "path": "a:b(c)"}),
        ("x(a=false, b=True, c=none, d=None)", "x", {"a": False, "b": True, "c": "none", "d": None}),
        ("x(a=-1e-3, b=[1, (2,), {'k': c}])", "x", {"a": -1e-3, "b": [1, (2,), {"k": "c"}]}),
        ("old (1)/net.py:build", "old (1)/net.py:build", {}),
    ],
)  # fmt: skip
def test_what_people_type(text: str, name: str, arguments: dict[str, Any]) -> None:
    assert parse_call(text) == (name, arguments)


def test_a_word_of_python_is_told_to_be_put_in_quotes() -> None:
    with pytest.raises(ZskdError, match='with quotes round a word of Python: key="in"'):
        parse_call("net.py:build(kind=in)")
    assert parse_call('net.py:build(kind="in")') == ("net.py:build", {"kind": "in"})


HOSTILE = [
    "resnet20(__import__('os'))",
    "resnet20(norm=__import__('os').system('touch ran'))",
    "resnet20(norm=(lambda: 1)())",
    "resnet20(norm=[x for x in (1,)])",
    "resnet20(norm=f'{1}')",
    "resnet20(norm=a.b)",
    "resnet20(norm=b'x')",
    "resnet20(width=2j)",
    "resnet20(width=1e999)",
    "resnet20(width=9**9**9)",
    "resnet20(width={**{}})",
    "resnet20(width={1: 2})",
    "resnet20(norm=group, norm=none)",
    "resnet20(**{'norm': 'none'})",
    "resnet20(*[1])",
    "resnet20(norm=",
    "resnet20(norm=)",
    "resnet20(norm=group",
    "resnet20)norm=group(",
    "resnet20(norm='a\nb')",
    "resnet20(norm=\0)",
    "resnet20(width=" + "9" * 5000 + ")",
    "resnet20(width=" + "(" * 300 + "1" + ")" * 300 + ")",
    "resnet20(width=" + "[" * 90 + "1" + "]" * 90 + ")",
    "resnet20(width=" + "-" * 900 + "1)",
    "resnet20(" * 400 + ")" * 400,
    "resnet20(width=" + "9" * 900 + ")",
    "resnet20(width=0)",
    "resnet20(width=-1)",
    "resnet20(width=nan)",
    "resnet20(width=true)",
    "resnet20(width='1')",
    "resnet20(norm=3)",
    "resnet20(nrom=group)",
    "resnet20(depth=8)",
    "resnet20(classes=3)",
    "resnet20(size=3)",
    "resnet18(depth=34)",
    "resnet99999999999999999999",
    "resnet9998",
    "resnet21",
    "resnet50",
    "resnet2",
    "resnet020",
    "resnet{depth}",
    "resnet-20",
    "resnet",
    "wrn-16",
    "wrn-16-0",
    "wrn-16-99",
    "wrn-17-1",
    "wrn-40-64",
    "vgg9",
    "vgg８",
    "mlp(widths=3)",
    "mlp(widths=(0,))",
    "mlp(widths=(1.5,))",
    "mlp(widths=(65536, 65536))",
    "",
    "()",
    "half",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_wrong_names_are_refused_in_one_line_and_run_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZskdError) as caught:
        describe(text, shape=(3, 32, 32), classes=10)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(text)
    assert not list(tmp_path.iterdir())
    # a card is data: it gets the same answer
    with pytest.raises(ZskdError, match="the architecture in the card is damaged") as caught:
        build(Named(name=text, channels=3, classes=10, size=32), run_code=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("resnt20", "did you mean resnet20"),
        ("wrn-16", "did you mean wrn-16-1"),
        ("wrn16-2", "did you mean wrn-16-2"),
        ("foo", r"choose one of lenet5, .*resnet\{depth\}, wrn-\{depth\}-\{width\}, .*mlp, or name your own"),
        ("resnet{depth}", "stands for many names, such as resnet20"),
        ("resnet21", "choose a depth 6n \\+ 2, such as 8, 14, 20"),
        ("resnet50", "for ImageNet with other blocks"),
        ("resnet20(nrom=group)", "has no argument 'nrom': did you mean norm"),
        ("resnet20(classes=3)", "choose one of width, norm$"),
        ("resnet20(depth=8)", "its depth is in the name already"),
        ("resnet20(norm=no)", "norm is 'no': it should be 'none', 'batch' or 'group'"),
        ("vgg9", "depth is 9: it should be 8, 11, 13, 16 or 19"),
        ("resnet20(batch)", "has no name: write NAME"),
        ("mlp(widths=(65536, 65536))", "would have 4,497,080,330 parameters"),
    ],
)
def test_the_message_says_what_to_do(name: str, advice: str) -> None:
    with pytest.raises(ZskdError, match=advice):
        describe(name, shape=(3, 32, 32), classes=10)


def test_settings_know_families_and_arguments() -> None:
    assert Recipe(student="resnet8(norm=group)").student == "resnet8(norm=group)"
    assert TeacherConfig(model="net.py:build(depth=20)").model == "net.py:build(depth=20)"
    for wrong in ("resnt8", "resnet{depth}", "resnet8(norm=", "half(share=0.5, share=1)", "wrn-16"):
        with pytest.raises(ZskdError):
            Recipe(student=wrong)
    with pytest.raises(ZskdError, match="the name of a loss takes no arguments"):
        LOSSES.check("my.py:loss(x=1)", "--distill.loss")


def test_an_exact_name_comes_before_a_family() -> None:
    assert match_pattern("resnet{depth}", "resnet18") == {"depth": 18}
    assert (
        ARCHITECTURES.load_with_arguments("resnet18")[0]
        is not ARCHITECTURES.load_with_arguments("resnet20")[0]
    )
    assert ARCHITECTURES.load_with_arguments("wrn-16-2(norm=none)")[1] == {
        "depth": 16,
        "width": 2,
        "norm": "none",
    }
    assert set(STUDENTS.examples) > {"half", "narrow:0.5", "auto", *ARCHITECTURES.examples}


def test_sizes_are_read() -> None:
    assert read_size("narrow:0.5") == Share("narrow", 0.5)
    assert read_size("params:.25") == Share("params", 0.25)
    assert read_size("width:1") == Share("width", 1.0)
    assert read_size("budget:200k") == Budget(200_000, "parameters")
    assert read_size("budget:5M") == Budget(5e6, "multiply-adds")
    assert read_size("budget:1.2G") == Budget(1.2e9, "multiply-adds")
    assert read_size("budget:2M-params") == Budget(2e6, "parameters")
    assert read_size("budget:800k-macs") == Budget(800_000, "multiply-adds")
    assert read_size("budget:0.3x") == Budget(0.3, "teacher")
    assert (read_size("auto"), read_size("auto:large")) == (Auto(None), Auto("large"))


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["narrow", "params", "width", "depth", "budget", "auto"]),
    size=st.text("0123456789.xkMG%-,paramscs infe+(", max_size=10),
)
def test_any_size_is_read_or_refused_in_one_line(kind: str, size: str) -> None:
    try:
        found = read_size(f"{kind}:{size}")
    except ZskdError as error:
        found = None
        lines = str(error).splitlines()
    else:
        lines = ["-"]
    assert len(lines) == 1
    amount = found.share if isinstance(found, Share) else found.amount if isinstance(found, Budget) else 1
    assert 0 < amount < 1e22


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("narrow:50%", "such as narrow:0.5$"),
        ("depth:25 %", "such as depth:0.25$"),
        ("narrow:0,5", "such as narrow:0.5$"),
        ("narrow:1.5", "such as narrow:0.5, because the student would be larger than the teacher"),
        ("narrow:0", "such as narrow:0.5"),
        ("narrow:", "such as narrow:0.5"),
        ("narrow:half", "such as narrow:0.5"),
        ("narow:0.5", "did you mean narrow:0.5"),
        ("parms:0.5", "did you mean params:0.5"),
        ("narrow:0.5(x=1)", "narrow:0.5 takes no arguments"),
        ("narrow", "did you mean narrow:0.5"),
        ("budget:200000", "budget:200000-params for parameters or budget:200000-macs for"),
        ("budget:5m", "did you mean budget:5M"),
        ("budget:1.5x", "budget:0.3x"),
        ("budget:0k", "at least 1"),
        ("budget:many", "write budget:200k .parameters., budget:5M"),
        ("auto:tiny", "choose one of small, medium, large"),
        ("auto:smal", "did you mean auto:small"),
    ],
)
def test_a_wrong_size_is_refused_with_the_right_one(name: str, advice: str) -> None:
    with pytest.raises(ZskdError, match=advice):
        STUDENTS.check(name, "--student")


def test_a_known_word_before_the_colon_is_no_code() -> None:
    for name in ("narrow:0.5", "auto:small", "timm:resnet18", "torchvision:resnet18(width_per_group=32)"):
        assert not STUDENTS.is_code(name)
        assert StudentSpec(student=name).factory is None
    for name in ("net.py:build", "narrower:build", "my.narrow:build(depth=20)", "narrow.py:build"):
        assert STUDENTS.is_code(name)
        STUDENTS.check(name, "--student")


FACTORY = """
import torch

def build(units=3, norm="none"):
    assert norm in ("none", "group")
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(units, 2))
"""


def test_a_factory_gets_the_arguments_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets (1)").mkdir()
    file = tmp_path / "nets (1)" / "my_arguments.py"
    file.write_text(FACTORY)
    architecture = describe(f"{file}:build( units=12,norm=group)", shape=(3, 2, 2), classes=2)
    assert architecture == Factory(factory=f"{file}:build(units=12, norm=group)")
    assert build(architecture, run_code=True)(torch.zeros(1, 3, 2, 2)).shape == (1, 2)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of somebody else"))
    with pytest.raises(
        ZskdError, match=r"a card may not run code .* --model '.*build\(units=12, norm=group\)'$"
    ):
        build(architecture, run_code=False)
    with pytest.raises(ZskdError, match="unexpected keyword argument 'depth'"):
        build(Factory(factory=f"{file}:build(depth=1)"), run_code=True)


def test_a_card_with_a_name_of_code_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil_name.py").write_text("raise SystemExit('ran')")
    for name in (f"{tmp_path / 'evil_name.py'}:build", f"{tmp_path / 'evil_name.py'}:build(x=1)"):
        with pytest.raises(ZskdError, match="the architecture in the card is damaged"):
            build(Named(name=name, channels=1, classes=2, size=32), run_code=True)


@pytest.mark.parametrize("number", [10**8, 10**12, 10**30])
def test_a_card_cannot_ask_for_more_memory_than_there_is(number: int) -> None:
    for sizes in ({"channels": number}, {"classes": number}, {"size": number}):
        named = Named(**({"name": "lenet5", "channels": 1, "classes": 10, "size": 32} | sizes))
        with pytest.raises(ZskdError, match=r"would have [\d,]+|too many parameters") as caught:
            build(named, run_code=True)
        assert len(str(caught.value)) < 200
