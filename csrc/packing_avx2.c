/* Reading packed residues, in AVX2: eight at a time, whose bits begin at the same places in their b bytes.
 *
 * Each half of a vector gets the 16 bytes from where its first element begins; a shuffle puts a window of four or
 * eight bytes around each element, and a shift moves it to its place. So elements have 25 or 57 bits at most. */
#include "x86.h"

#ifdef FS_X86_64

#define TARGET FS_TARGET("avx2")

typedef struct {
    __m256i shuffle, shift, mask;
    size_t origin[2]; /* bytes from where the eight begin */
} fs_windows;

/* Windows of `width` bits, 32 or 64, for the elements from `first` on. */
TARGET static fs_windows make_windows(unsigned bits, unsigned width, unsigned first)
{
    uint8_t shuffle[32], shift[32] = {0};
    unsigned bytes = width / 8, half = 16 / bytes;
    fs_windows windows;
    for (unsigned i = 0; i < 2 * half; i++) {
        unsigned origin = (first + i / half * half) * bits / 8, begin = (first + i) * bits - 8 * origin;
        windows.origin[i / half] = origin;
        shift[bytes * i] = (uint8_t)(begin % 8);
        for (unsigned k = 0; k < bytes; k++)
            shuffle[bytes * i + k] = (uint8_t)(begin / 8 + k);
    }
    windows.shuffle = _mm256_loadu_si256((const __m256i *)(const void *)shuffle);
    windows.shift = _mm256_loadu_si256((const __m256i *)(const void *)shift);
    windows.mask = width == 32 ? _mm256_set1_epi32((int)(UINT32_MAX >> (32 - bits)))
                               : _mm256_set1_epi64x((int64_t)(UINT64_MAX >> (64 - bits)));
    return windows;
}

FS_INLINE TARGET __m256i read_windows(const uint8_t *p, const fs_windows *windows, unsigned width)
{
    __m128i low = _mm_loadu_si128((const __m128i *)(const void *)(p + windows->origin[0]));
    __m128i high = _mm_loadu_si128((const __m128i *)(const void *)(p + windows->origin[1]));
    __m256i both = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1),
                                       windows->shuffle);
    both = width == 32 ? _mm256_srlv_epi32(both, windows->shift) : _mm256_srlv_epi64(both, windows->shift);
    return _mm256_and_si256(both, windows->mask);
}

/* The lower halves of eight 64-bit elements. */
FS_INLINE TARGET __m256i narrow(__m256i a, __m256i b)
{
    const __m256i even = _mm256_set_epi32(0, 0, 0, 0, 6, 4, 2, 0);
    __m128i high = _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(b, even));
    return _mm256_inserti128_si256(_mm256_permutevar8x32_epi32(a, even), high, 1);
}

/* What stands in out is added to x and reduced; or x alone. */
#define DEFINE_WRITE(LANE)                                                                                \
    FS_INLINE TARGET void write##LANE(uint##LANE##_t *out, __m256i x, __m256i mask, int add)              \
    {                                                                                                     \
        __m256i *to = (__m256i *)(void *)out;                                                             \
        if (add)                                                                                          \
            x = _mm256_and_si256(_mm256_add_epi##LANE(x, _mm256_loadu_si256(to)), mask);                  \
        _mm256_storeu_si256(to, x);                                                                       \
    }

DEFINE_WRITE(32)
DEFINE_WRITE(64)

FS_INLINE TARGET size_t read32(uint32_t *out, const uint8_t *packed, size_t n, unsigned bits, int add)
{
    __m256i mask = _mm256_set1_epi32((int)(UINT32_MAX >> (32 - bits)));
    if (bits <= 25) {
        fs_windows all = make_windows(bits, 32, 0);
        for (size_t j = 0; j < n; j += 8, packed += bits)
            write32(out + j, read_windows(packed, &all, 32), mask, add);
    } else {
        fs_windows first = make_windows(bits, 64, 0), second = make_windows(bits, 64, 4);
        for (size_t j = 0; j < n; j += 8, packed += bits) {
            __m256i low = read_windows(packed, &first, 64), high = read_windows(packed, &second, 64);
            write32(out + j, narrow(low, high), mask, add);
        }
    }
    return n;
}

FS_INLINE TARGET size_t read64(uint64_t *out, const uint8_t *packed, size_t n, unsigned bits, int add)
{
    fs_windows first = make_windows(bits, 64, 0), second = make_windows(bits, 64, 4);
    for (size_t j = 0; j < n; j += 8, packed += bits) {
        write64(out + j, read_windows(packed, &first, 64), first.mask, add);
        write64(out + j + 4, read_windows(packed, &second, 64), first.mask, add);
    }
    return n;
}

TARGET size_t fs_avx2_read_packed(void *out, int lane, const uint8_t *packed, size_t length, unsigned bits, int add)
{
    /* Loads reach 16 bytes behind where the last of eight may begin. */
    size_t bytes = length / 8 * bits + length % 8 * bits / 8;
    size_t n = bytes < bits + 16 ? 0 : 8 * ((bytes - 16) / bits);
    if (lane == 16 || bits > 57)
        return 0;
    if (lane == 32)
        return add ? read32(out, packed, n, bits, 1) : read32(out, packed, n, bits, 0);
    return add ? read64(out, packed, n, bits, 1) : read64(out, packed, n, bits, 0);
}

#endif
