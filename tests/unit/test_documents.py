"""The documents keep their word: code blocks run as printed, commands exist, links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TRANSLATIONS = [path for path in DOCUMENTS if path.name.endswith(".zh.md")]
IN_SESSIONS = ("identity", "directory")
NOT_HERE = ("demo", "bench", "ledger", "simulate", *IN_SESSIONS)  # run elsewhere, or for long
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    """The blocks of all documents, each once: a translation has those of its original."""
    seen = set()
    for path in DOCUMENTS:
        for number, (found, text) in enumerate(BLOCK.findall(path.read_text()), start=1):
            if found == language and text not in seen:
                seen.add(text)
                yield pytest.param(text, id=f"{path.name}-{number}")


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.name)
def test_translations_have_the_code_of_their_originals(path):
    original = path.with_name(path.name.replace(".zh.", "."))
    assert BLOCK.findall(path.read_text()) == BLOCK.findall(original.read_text())


@pytest.mark.parametrize("text", list(blocks("python")))
def test_python_blocks_run_as_printed(text, run):
    pytest.importorskip("torch")
    run("python", text)


@pytest.mark.parametrize(
    "text", [block for block in blocks("py") if block.id.startswith(("README", "flower"))]
)
def test_excerpts_for_flower_stand_in_the_example_that_is_run(text):
    """`make test-flower` runs the example; paragraphs of an excerpt are lines of it, in their order."""
    files = sorted((ROOT / "examples" / "flower" / "digits").glob("*_app.py"))
    code = [_lines(path.read_text()) for path in files]
    for paragraph in text.split("\n\n"):
        assert any(_lines(paragraph) in one for one in code), paragraph


def _lines(text):
    return "\n".join(line.strip() for line in text.strip().splitlines())


def commands():
    """Every `fedsec` command of a shell block; `make` targets are checked by the next test."""
    for block in blocks("sh"):
        for line in block.values[0].splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["fedsec"] and words[1] not in NOT_HERE:
                yield pytest.param(words, id=" ".join(words[:2]))


@pytest.mark.parametrize("words", list(commands()))
def test_commands_run_as_printed(words, run):
    texts = [block.values[0] for block in blocks("toml")]  # the first line names the file
    assert run("module", *words, files=[(text.partition("\n")[0].removeprefix("# "), text) for text in texts])


def sessions():
    """Shell blocks whose commands lean on each other."""
    for block in blocks("sh"):
        if any(f"fedsec {command}" in block.values[0] for command in IN_SESSIONS):
            yield block


@pytest.mark.parametrize("text", list(sessions()))
def test_sessions_run_as_printed(text, tmp_path):
    fedsec = tmp_path / "bin" / "fedsec"
    fedsec.parent.mkdir()
    fedsec.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedsec "$@"\n')
    fedsec.chmod(0o755)
    path = f"PATH={fedsec.parent}{os.pathsep}{os.environ['PATH']}"
    command = ["env", path, "PYTHONWARNINGS=error", "OMP_NUM_THREADS=1", "sh", "-eu", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks("sh"):
        for target in re.findall(r"^make (\w+)", block.values[0], re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_pages_that_are_named_exist(path):
    for page in re.findall(r"\bdocs/[\w/]+\.md", path.read_text()):
        assert (ROOT / page).exists(), page


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path):
    code = "".join(test.read_text() for test in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_\w+)`", path.read_text()):
        assert f"def {name}(" in code, name
