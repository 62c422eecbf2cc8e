"""The figures of docs/concepts.md are what the script beside them computes, and each stands on the page."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
KEPT = sorted((DOCS / "figures").glob("*.svg"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    subprocess.run([sys.executable, "-W", "error", DOCS / "_figures.py", folder], check=True)
    return folder


def test_the_figures_that_are_kept_are_the_ones_that_are_drawn(drawn):
    assert [path.name for path in KEPT] == sorted(path.name for path in drawn.iterdir())
    for path in KEPT:
        assert path.read_text() == (drawn / path.name).read_text(), path.name


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_figure_needs_nothing_from_elsewhere_and_stays_in_its_frame(path):
    root = ElementTree.fromstring(path.read_text())  # noqa: S314
    assert root.find("{*}title").text
    assert not any("href" in name for element in root.iter() for name in element.attrib)
    for element in root.iter("{*}polyline"):
        for point in element.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 600, path
            assert 0 <= y <= 220, path


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_each_figure_stands_on_the_page_under_its_concept(path):
    sections = (DOCS / "concepts.md").read_text().split("\n## ")[1:]
    assert sum(f"(figures/{path.name})" in section for section in sections) == 1
    assert all(section.count("(figures/") == 1 for section in sections)
