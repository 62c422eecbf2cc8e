"""docs/dependencies.md names every dependency with its licence, as the installed package states it."""

import re
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
FAMILIES = {
    "Apache": "Apache",
    "BSD": "BSD",
    "ISC": "ISC",
    "MIT": "MIT",
    "MPL": "MPL|Mozilla",
    "PSF": "PSF|Python Software Foundation",
    "matplotlib": "matplotlib|Python Software Foundation",
}


def requirements():
    """All packages of pyproject.toml but our own, by name."""
    text = (ROOT / "pyproject.toml").read_text()
    lists = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    found = re.findall(r'"([A-Za-z0-9_-]+)(?:\[[^]]*\])?(?:[<>=;][^"]*)?"', lists)
    return sorted(set(found) - {"fedsec"})


def stated(name):
    """The licence families that the page gives a package: in its cell, or in brackets behind its name."""
    at = re.search(rf"\b{name}\b[^|;(]*[|(]\s*([^|;)]*)", PAGE)
    assert at, f"docs/dependencies.md does not name {name} with a licence"
    return [family for family in FAMILIES if family in at[1]]


def test_the_list_of_requirements_is_read():
    assert {"numpy", "cffi", "torch", "hypothesis", "ruff", "flwr"} <= set(requirements())


def brought(*extras):
    """All installed packages that fedsec with these extras needs, and what these need in turn."""
    found, ahead = set(), [("fedsec", extra) for extra in ("", *extras)]
    while ahead:
        name, extra = ahead.pop()
        for line in requires(name) or []:
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            further = {(canonicalize_name(wanted.name), each) for each in ("", *wanted.extras)} - found
            found |= further
            ahead += further
    return sorted({name for name, _ in found} - {"fedsec"})


def require_licence(name, families):
    """What an installed package says of its licence agrees with the page."""
    assert families, name
    about = metadata(name)
    fields = [about.get("License-Expression"), about.get("License"), *about.get_all("Classifier", [])]
    words = " ".join(field for field in fields if field)
    assert any(re.search(FAMILIES[family], words, re.IGNORECASE) for family in families), words[:300]


@pytest.mark.parametrize("name", requirements())
def test_every_requirement_is_named_with_its_licence(name):
    try:
        require_licence(name, stated(name))
    except PackageNotFoundError:
        return  # named with a licence; an extra that is not installed here


def test_what_requirements_bring_is_named_with_its_licence():
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    rows = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([^|]+) \|", PAGE, re.MULTILINE))
    further = set(brought("torch", "demo", "plot")) - set(requirements())
    assert further >= {"pycparser", "pygments", "sympy", "joblib", "pillow"}
    for name in further:
        assert name in rows, f"docs/dependencies.md does not list {name}, which a requirement brings"
        require_licence(name, [family for family in FAMILIES if family in rows[name]])
