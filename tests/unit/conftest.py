"""What documents and examples are run with."""

import contextlib
from pathlib import Path

import documents_worker
import pytest
from protocol.workers import Worker


@pytest.fixture(scope="module")
def documents():
    with contextlib.closing(Worker(documents_worker, PYTHONWARNINGS="error")) as worker:
        yield worker


@pytest.fixture
def run(documents, tmp_path):
    """Runs something of a kind that `documents_worker` knows in a folder of its own; what it printed."""

    def run(kind, *arguments, files=()):
        folder = tmp_path / "here"
        folder.mkdir()
        for name, text in files:
            (folder / name).write_text(text)
        documents.start(kind, folder, *arguments)
        _, (code,) = documents.until_gone()
        assert code == 0, Path(f"{folder}.err").read_text()
        return Path(f"{folder}.out").read_text()

    return run
