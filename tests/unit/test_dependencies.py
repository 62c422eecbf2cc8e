"""docs/dependencies.md names every dependency with its licence, as the installed package states it."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
FAMILIES = {
    "Apache": "Apache",
    "BSD": "BSD",
    "ISC": "ISC",
    "MIT": "MIT",
    "MPL": "MPL|Mozilla",
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


@pytest.mark.parametrize("name", requirements())
def test_every_requirement_is_named_with_its_licence(name):
    families = stated(name)
    assert families, name
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return  # an extra that is not installed here
    fields = [about.get("License-Expression"), about.get("License"), *about.get_all("Classifier", [])]
    words = " ".join(field for field in fields if field)
    assert any(re.search(FAMILIES[family], words, re.IGNORECASE) for family in families), words[:300]
