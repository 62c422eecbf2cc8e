/* The fast part of the exact discrete Gaussian in AVX-512: bell.h, 32 candidates at a time, tables in registers. */
#include "x86.h"

#ifdef FS_X86_64

#include "bell_filter.h"

#define TARGET FS_TARGET("avx512f,avx512bw,bmi2,popcnt")

#ifdef __has_feature
#if __has_feature(memory_sanitizer)
#define FS_MEMORY_SANITIZER
#endif
#endif

typedef struct {
    __m512i low, high;
} table;

FS_INLINE TARGET table load_table(const uint16_t *entries)
{
    return (table){_mm512_loadu_si512(entries), _mm512_loadu_si512(entries + 32)};
}

/* entries[index mod 64] */
FS_INLINE TARGET __m512i look_up(table t, __m512i index)
{
    return _mm512_permutex2var_epi16(t.low, index, t.high);
}

FS_INLINE TARGET __m512i constant(unsigned number)
{
    return _mm512_set1_epi16((short)number);
}

/* c - v x */
FS_INLINE TARGET __m512i step(unsigned c, __m512i v, __m512i x)
{
    return _mm512_sub_epi16(constant(c), _mm512_mulhi_epu16(v, x));
}

FS_INLINE TARGET uint32_t even_first(uint32_t lanes)
{
    return _pext_u32(lanes, 0x55555555) | _pext_u32(lanes, 0xaaaaaaaa) << 16;
}

/* Those of 16 numbers that stand, one after the other, and anything behind them. clang's memory sanitizer takes the
 * instruction for a branch on each number, and so gets a loop, whose addresses depend on what stands alone. */
FS_INLINE TARGET __m512i compress(uint32_t standing, __m512i numbers)
{
#ifdef FS_MEMORY_SANITIZER
    int32_t lanes[16], kept[16] = {0};
    _mm512_storeu_si512(lanes, numbers);
    for (int i = 0, n = 0; i < 16; n += standing >> i++ & 1)
        kept[n] = lanes[i];
    return _mm512_loadu_si512(kept);
#else
    return _mm512_maskz_compress_epi32((__mmask16)standing, numbers);
#endif
}

/* Eight whole values. */
FS_INLINE TARGET __m512i whole(__m256i shown, __m256i rest, __m128i hidden)
{
    __m512i last = _mm512_srli_epi64(_mm512_sll_epi64(_mm512_cvtepu32_epi64(rest), hidden), 32);
    return _mm512_or_si512(_mm512_sll_epi64(_mm512_cvtepi32_epi64(shown), hidden), last);
}

/* Stores those of 16 values that stand, as 32 or 64 bits each; `rest` where that has bits of a value. */
FS_INLINE TARGET uint8_t *keep(uint8_t *out, size_t size, uint32_t standing, __m512i shown, const uint32_t *rest,
                               __m128i hidden)
{
    if (rest && size == 4)
        shown = _mm512_or_si512(_mm512_sll_epi32(shown, hidden),
                                _mm512_srl_epi32(_mm512_loadu_si512(rest), _mm_sub_epi32(_mm_cvtsi32_si128(32), hidden)));
    __m512i kept = compress(standing, shown);
    if (size == 4) {
        _mm512_storeu_si512(out, kept);
    } else {
        __m256i left = _mm512_castsi512_si256(kept), right = _mm512_extracti64x4_epi64(kept, 1);
        __m512i more = rest ? compress(standing, _mm512_loadu_si512(rest)) : _mm512_setzero_si512();
        __m512i first = rest ? whole(left, _mm512_castsi512_si256(more), hidden) : _mm512_cvtepi32_epi64(left);
        __m512i last = rest ? whole(right, _mm512_extracti64x4_epi64(more, 1), hidden) : _mm512_cvtepi32_epi64(right);
        _mm512_storeu_si512(out, first);
        _mm512_storeu_si512(out + 64, last);
    }
    return out + size * (size_t)_mm_popcnt_u32(standing & 0xffff);
}

FS_INLINE TARGET size_t draw(fs_bell_work *work, uint8_t *out, size_t size, int wide)
{
    const fs_bell *bell = work->bell;
    table cells = load_table(bell->cells), slopes = load_table(bell->slopes), heights = load_table(bell->heights);
    __m512i mirrored = constant(bell->mirrored), offset_mask = constant(bell->offset_mask);
    __m512i one_step = constant(bell->step), curvature = constant(bell->curvature);
    __m512i first = _mm512_set1_epi32(bell->first);
    __m128i shift = _mm_cvtsi32_si128((int)(FS_BELL_SHOWN_BITS - bell->shown_bits));
    __m128i hidden = _mm_cvtsi32_si128((int)fs_bell_hidden(bell));
    uint8_t *next = out;
    for (; work->block < FS_BELL_BLOCKS; work->block++) {
        size_t at = FS_BELL_BLOCK * work->block;
        __m512i choice = _mm512_loadu_si512(work->choices + at);
        __m512i uniform = _mm512_loadu_si512(work->uniforms + at);
        __m512i offset = _mm512_loadu_si512(work->offsets + at);

        __m512i found = look_up(cells, choice);
        __mmask32 own = _mm512_cmplt_epu16_mask(choice, _mm512_and_si512(found, constant(0xff00)));
        __m512i index = _mm512_and_si512(_mm512_mask_blend_epi16(own, found, choice), constant(FS_BELL_CELLS - 1));
        __m512i sign = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(choice, 9), 15), mirrored);

        __m512i t = _mm512_adds_epu16(_mm512_and_si512(offset, offset_mask), _mm512_and_si512(sign, one_step));
        __m512i slope = _mm512_add_epi16(look_up(slopes, index), _mm512_mulhi_epu16(t, curvature));
        __m512i v = _mm512_mulhi_epu16(t, slope);
        __m512i e = step(FS_BELL_C3, v, constant(FS_BELL_C4));
        e = step(FS_BELL_C0, v, step(FS_BELL_C1, v, step(FS_BELL_C2, v, e)));
        __m512i acceptance = _mm512_mulhi_epu16(look_up(heights, index), _mm512_mulhi_epu16(e, e));
        __m512i surely = _mm512_subs_epu16(acceptance, constant(FS_BELL_MARGIN));
        __m512i maybe = _mm512_adds_epu16(acceptance, constant(FS_BELL_MARGIN));
        uint32_t standing = even_first(_mm512_cmplt_epu16_mask(uniform, surely));
        if (!fs_bell_decided(work, &standing, even_first(_mm512_cmple_epu16_mask(uniform, maybe))))
            break;

        __m512i high = _mm512_or_si512(_mm512_slli_epi16(index, 1), _mm512_srli_epi16(offset, 15));
        __m512i low = _mm512_and_si512(_mm512_srli_epi16(choice, 7), constant(1));
        low = _mm512_xor_si512(_mm512_or_si512(low, _mm512_slli_epi16(offset, 1)), sign);
        high = _mm512_xor_si512(high, sign);
        __m512i even = _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
        __m512i odd = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(low, 16), high);
        even = _mm512_add_epi32(_mm512_sra_epi32(even, shift), first);
        odd = _mm512_add_epi32(_mm512_sra_epi32(odd, shift), first);
        next = keep(next, size, standing, even, wide ? work->rest + at : NULL, hidden);
        next = keep(next, size, standing >> 16, odd, wide ? work->rest + at + 16 : NULL, hidden);
    }
    return (size_t)(next - out) / size;
}

#define DEFINE_BELL(BITS)                                                      \
    TARGET size_t fs_avx512_bell##BITS(fs_bell_work *work, int##BITS##_t *out) \
    {                                                                          \
        if (fs_bell_hidden(work->bell) > 0)                                    \
            return draw(work, (uint8_t *)out, sizeof *out, 1);                 \
        return draw(work, (uint8_t *)out, sizeof *out, 0);                     \
    }

DEFINE_BELL(32)
DEFINE_BELL(64)

#endif
