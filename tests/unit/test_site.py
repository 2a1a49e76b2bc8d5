"""The pages of the site are reached, and what they link to is there; `make docs` builds the site itself."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
OUTSIDE = ("README.md", "CHANGELOG.md", "examples/README.md", "results/README.md", "studies/README.md")
PAGES = [*DOCS.rglob("*.md"), *(ROOT / name for name in OUTSIDE)]


def test_the_start_page_lists_every_page_once() -> None:
    """The contents of the site are made of these lines."""
    listed = [
        (DOCS / target).resolve() for target in re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", INDEX, flags=re.M)
    ]
    assert len(listed) == len(set(listed))
    assert {page for page in PAGES if page.name != "index.md" and page != ROOT / "README.md"} == set(listed)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#{1,4} (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_headings_lead_to_a_heading(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        other = (page.parent / target).resolve() if target else page
        assert anchor in anchors(other), f"{target}#{anchor}"


def test_links_lead_to_files_since_a_site_has_no_folders() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).is_file(), f"{page.name}: {target}"
