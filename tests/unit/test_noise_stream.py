"""The samplers' stream of words past its 2^32nd block, beyond the reach of drawing: in a small C program."""

import shutil
import subprocess
from pathlib import Path

import pytest
from reference.masks_reference import keystream

CSRC = Path(__file__).parents[2] / "csrc"

PROGRAM = """
#include <stdio.h>
#include "core.h"
int main(void)
{
    uint8_t key[32];
    for (int i = 0; i < 32; i++)
        key[i] = (uint8_t)i;
    static fs_stream stream;
    fs_stream_start(&stream, fs_backend_at(0), key);
    stream.next_block = (UINT64_C(5) << 32) - FS_STREAM_BLOCKS;
    for (int i = 0; i < 2 * FS_STREAM_WORDS; i++)
        printf("%016llx\\n", (unsigned long long)fs_stream_next(&stream));
    return 0;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_counter_carries_into_the_nonce(tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    sources = [tmp_path / "program.c", *(CSRC / f"{name}.c" for name in ("stream", "backend", "generic"))]
    binary = tmp_path / "program"
    subprocess.run(["cc", "-std=c11", "-O1", f"-I{CSRC}", *sources, "-o", binary], check=True)
    printed = subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split()
    key, size = bytes(range(32)), 64 * 64
    expected = keystream(key, (4).to_bytes(12, "little"), 2**32 - 64, size)
    expected += keystream(key, (5).to_bytes(12, "little"), 0, size)
    words = [expected[i : i + 8][::-1].hex() for i in range(0, len(expected), 8)]
    assert printed == words
