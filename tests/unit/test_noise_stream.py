"""What drawing cannot reach: the stream past 2^32 blocks, and words that never come. In small C programs.

A backend is a value, so a program can bring its own, whose words are what the test wants.
"""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
from reference.masks_reference import noise_stream

CSRC = Path(__file__).parents[2] / "csrc"

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

HEAD = """
#include <stdio.h>
#include <string.h>
#include "generic.h"
static const uint8_t KEY[32] = {0, 1, 2, 3, 4, 5, 6, 7};
"""

COUNTER = """
int main(void)
{
    static fs_stream stream;
    size_t best = 0;
    while (!fs_backend_runs(fs_backend_at(best)))
        best++;
    fs_stream_start(&stream, fs_backend_at(best), KEY);
    stream.next_block = (UINT64_C(5) << 32) - FS_STREAM_BLOCKS;
    for (int i = 0; i < 2 * FS_STREAM_WORDS; i++)
        printf("%016llx ", (unsigned long long)fs_stream_next(&stream));
    return 0;
}
"""

# The stream's words are EVEN, ODD, EVEN, ODD, ...
SCRIPTED = """
static void expand(fs_aes_key *key, const uint8_t *seed)
{
    (void)key, (void)seed;
}
static void blocks(uint8_t *out, size_t n_blocks, const fs_aes_key *key, const uint8_t *nonce,
                   uint32_t counter)
{
    (void)key, (void)nonce, (void)counter;
    for (size_t i = 0; i < 16 * n_blocks; i++)
        out[i] = i % 16 < 8 ? EVEN : ODD;
}
int main(void)
{
    static const fs_backend scripted = {
        .name = "scripted", .aes128_expand = expand, .aes128_blocks = blocks, FS_NORMAL(fs_generic)};
    enum { DOUBLES = FS_NORMAL_GROUP_BYTES / 8, SINGLES = FS_NORMAL_GROUP_BYTES / 4 };
    static double normal[DOUBLES];
    static float single[SINGLES];
    fs_gaussian64(&scripted, normal, DOUBLES, 1.0, KEY);
    printf("%.17g %.17g\\n", normal[0], normal[DOUBLES / 2]);
    fs_gaussian32(&scripted, single, SINGLES, 1.0, KEY);
    printf("%.9g %.9g\\n", single[0], single[SINGLES / 2]);
    return 0;
}
"""


FLAGS = ["-std=c11", "-O1", f"-I{CSRC}"]


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The compiled core's object files."""
    directory = tmp_path_factory.mktemp("core")
    subprocess.run(["cc", *FLAGS, "-c", *sorted(CSRC.glob("*.c"))], check=True, cwd=directory)
    return sorted(directory.glob("*.o"))


@pytest.fixture
def printed(core, tmp_path):
    """Runs a program on top of the core and gives the words that it prints."""

    def run(program, **macros):
        (tmp_path / "program.c").write_text(HEAD + program)
        flags = [*FLAGS, *(f"-D{name}={value}" for name, value in macros.items())]
        binary = tmp_path / "program"
        subprocess.run(["cc", *flags, tmp_path / "program.c", *core, "-o", binary, "-lm"], check=True)
        return subprocess.run([binary], capture_output=True, text=True, check=True).stdout.split()

    return run


def test_the_counter_carries_into_the_nonce(printed):
    key, size = bytes(range(8)) + bytes(24), 16 * 256
    expected = noise_stream(key, (4, 0, 0), 2**32 - 256, size)
    expected += noise_stream(key, (5, 0, 0), 0, size)
    words = [expected[i : i + 8][::-1].hex() for i in range(0, len(expected), 8)]
    assert printed(COUNTER) == words


def test_the_gaussians_tail_ends_beyond_nine_deviations(printed):
    """The words 0 give the largest radius, that of the midpoint of u's first cell."""
    largest = [float(word) for word in printed(SCRIPTED, EVEN=0, ODD=0)]
    assert math.hypot(*largest[:2]) == pytest.approx(math.sqrt(130 * math.log(2)), rel=1e-15)
    assert math.hypot(*largest[2:]) == pytest.approx(math.sqrt(130 * math.log(2)), rel=2e-7)
    assert math.hypot(*largest[2:]) > 9.49
    smallest = [float(word) for word in printed(SCRIPTED, EVEN=255, ODD=255)]
    assert math.hypot(*smallest[:2]) == pytest.approx(2.0**-32, rel=1e-15)
    assert math.hypot(*smallest[2:]) == pytest.approx(2.0**-15.5, rel=2e-7)
