"""Uploads in parts on a disk that refuses or loses some: they come again, or the session ends."""

import os

import numpy as np
import pytest
from protocol.secagg_loop import Loop

from fedsec.errors import StoreError
from fedsec.secagg import Phase
from fedsec.secagg.spool import Spool

resource = pytest.importorskip("resource")

PART = 2**20  # bytes and elements: on disk, and no multiple of what is written before the limit


@pytest.fixture
def limit():
    """How large a file may become; Python ignores the signal, and writes are cut short, then refused."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_part_that_was_written_halfway_may_come_again(limit):
    parts = [os.urandom(PART) for _ in range(3)]
    spool, total = Spool(3 * PART, 8), np.zeros(3 * PART, np.uint16)
    spool.append(0, memoryview(parts[0]))
    limit(PART + PART // 3)
    with pytest.raises(StoreError, match="temporary file of an upload"):
        spool.append(PART, memoryview(parts[1]))
    limit(None)
    spool.append(PART, memoryview(parts[1]))
    spool.append(2 * PART, memoryview(parts[2]))
    spool.add_to(total)
    assert total.astype(np.uint8).tobytes() == b"".join(parts)


def test_an_upload_that_cannot_be_added_whole_ends_the_session(monkeypatch):
    """What was read before the disk failed is in the sum."""
    loop = Loop(3, 2 * PART).until("upload")
    client = loop.clients[10]
    client.receive(loop.inbox[10])
    *first, last = client.upload(loop.vectors[10])
    for chunk in first:
        loop.server.receive_chunk(10, chunk)
    read, pieces = Spool._read, []

    def failing(spool, length):
        pieces.append(length)
        return read(spool, length + (len(pieces) == 8))  # the last one: there is no more

    monkeypatch.setattr(Spool, "_read", failing)
    with pytest.raises(StoreError, match="has lost"):
        loop.server.receive_chunk(10, last)
    assert loop.server.phase is Phase.ABORTED
