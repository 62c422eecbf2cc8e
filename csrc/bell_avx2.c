/* The fast part of exact bells in AVX2: 32 candidates at a time in two halves, tables in
 * registers. */
#include "x86.h"

#ifdef FS_X86_64

#include "bell_filter.h"

#define TARGET FS_TARGET("avx2")

enum { LANES = FS_BELL_BLOCK / 2 };

typedef struct {
    __m256i accepted, possible, even, odd;
} half;

FS_INLINE TARGET __m256i constant(unsigned number)
{
    return _mm256_set1_epi16((short)number);
}

FS_INLINE TARGET __m256i choose(__m256i zero, __m256i one, __m256i top_bits)
{
    return _mm256_blendv_epi8(zero, one, top_bits);
}

/* entries[index], index below 64: eight entries a register, chosen by three bits, and the other three among registers.
 * */
FS_INLINE TARGET __m256i look_up(const uint16_t *entries, __m256i index)
{
    __m256i both = _mm256_or_si256(index, _mm256_slli_epi16(index, 8)), found[8];
    __m256i bytes = _mm256_and_si256(_mm256_slli_epi16(both, 1), constant(0x0e0e));
    bytes = _mm256_or_si256(bytes, constant(0x0100));
    for (int i = 0; i < 8; i++) {
        __m128i eight = _mm_loadu_si128((const __m128i *)(const void *)(entries + 8 * i));
        found[i] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(eight), bytes);
    }
    for (int width = 4; width > 0; width /= 2) {
        __m256i bit = _mm256_slli_epi16(both, width == 4 ? 2 : width == 2 ? 3 : 4);
        for (int i = 0; i < width; i++)
            found[i] = choose(found[i], found[i + width], bit);
    }
    return found[0];
}

/* c - v x */
FS_INLINE TARGET __m256i step(unsigned c, __m256i v, __m256i x)
{
    return _mm256_sub_epi16(constant(c), _mm256_mulhi_epu16(v, x));
}

/* a <= b */
FS_INLINE TARGET __m256i at_most(__m256i a, __m256i b)
{
    return _mm256_cmpeq_epi16(_mm256_min_epu16(a, b), a);
}

FS_INLINE TARGET __m256i load_half(const uint16_t *words)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)words);
}

/* A cell's number, of its side where a law is skewed. */
FS_INLINE TARGET __m256i of_cell(const fs_bell *bell, const uint16_t sides[2][FS_BELL_CELLS], __m256i index, __m256i left)
{
    __m256i found = look_up(sides[0], index);
    return bell->skewed ? choose(found, look_up(sides[1], index), left) : found;
}

FS_INLINE TARGET half filter(const fs_bell_work *work, size_t at)
{
    const fs_bell *bell = work->bell;
    __m256i choice = load_half(work->choices + at), uniform = load_half(work->uniforms + at);
    __m256i offset = load_half(work->offsets + at), cell_bits = constant(FS_BELL_CELLS - 1);

    __m256i found = look_up(bell->cells, _mm256_and_si256(choice, cell_bits));
    __m256i alias = at_most(_mm256_and_si256(found, constant(0xff00)), choice);
    __m256i index = _mm256_and_si256(choose(choice, found, alias), cell_bits);
    __m256i sign = _mm256_srai_epi16(_mm256_slli_epi16(choice, 9), 15);
    sign = _mm256_and_si256(sign, constant(bell->mirrored));

    __m256i t = _mm256_and_si256(offset, constant(bell->offset_mask));
    t = _mm256_adds_epu16(t, _mm256_and_si256(sign, constant(bell->step)));
    __m256i curvature = constant(bell->curvatures[0][0]);
    if (bell->curved)
        curvature = of_cell(bell, bell->curvatures, index, sign);
    __m256i slope = _mm256_add_epi16(of_cell(bell, bell->slopes, index, sign), _mm256_mulhi_epu16(t, curvature));
    __m256i v = _mm256_mulhi_epu16(t, slope);
    __m256i e = step(FS_BELL_C3, v, constant(FS_BELL_C4));
    e = step(FS_BELL_C0, v, step(FS_BELL_C1, v, step(FS_BELL_C2, v, e)));
    __m256i acceptance = _mm256_mulhi_epu16(of_cell(bell, bell->heights, index, sign), _mm256_mulhi_epu16(e, e));
    __m256i surely = _mm256_subs_epu16(acceptance, constant(FS_BELL_MARGIN));
    __m256i maybe = _mm256_adds_epu16(acceptance, constant(FS_BELL_MARGIN));

    __m256i high = _mm256_or_si256(_mm256_slli_epi16(index, 1), _mm256_srli_epi16(offset, 15));
    __m256i low = _mm256_and_si256(_mm256_srli_epi16(choice, 7), constant(1));
    low = _mm256_xor_si256(_mm256_or_si256(low, _mm256_slli_epi16(offset, 1)), sign);
    high = _mm256_xor_si256(high, sign);
    __m128i shift = _mm_cvtsi32_si128((int)(FS_BELL_SHOWN_BITS - bell->shown_bits));
    __m256i even = _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
    __m256i odd = _mm256_blend_epi16(_mm256_srli_epi32(low, 16), high, 0xaa);
    return (half){
        /* uniform < surely */
        _mm256_andnot_si256(at_most(surely, uniform), constant(0xffff)),
        at_most(uniform, maybe),
        _mm256_sra_epi32(even, shift),
        _mm256_sra_epi32(odd, shift),
    };
}

/* A bit a candidate, even ones first. */
FS_INLINE TARGET uint32_t even_first(__m256i left, __m256i right)
{
    const __m256i unzip = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi16(left, right), 0xd8);
    packed = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(packed, unzip), 0xd8);
    return (uint32_t)_mm256_movemask_epi8(packed);
}

#define DEFINE_BELL(BITS)                                                                        \
    TARGET size_t fs_avx2_bell##BITS(fs_bell_work *work, int##BITS##_t *out)                     \
    {                                                                                            \
        int##BITS##_t *next = out;                                                               \
        for (; work->block < FS_BELL_BLOCKS; work->block++) {                                    \
            size_t at = FS_BELL_BLOCK * work->block;                                             \
            half left = filter(work, at), right = filter(work, at + LANES);                      \
            uint32_t standing = even_first(left.accepted, right.accepted);                       \
            if (!fs_bell_decided(work, &standing, even_first(left.possible, right.possible)))    \
                break;                                                                           \
            const __m256i ordered[4] = {left.even, right.even, left.odd, right.odd};             \
            int32_t values[FS_BELL_BLOCK];                                                       \
            memcpy(values, ordered, sizeof values);                                              \
            next = fs_bell_keep##BITS(work, next, values, standing);                             \
        }                                                                                        \
        return (size_t)(next - out);                                                             \
    }

DEFINE_BELL(32)
DEFINE_BELL(64)

#endif
