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

/* The accepted of 16 values, one after the other. clang's memory sanitizer takes the instruction for a branch on each
 * value, and so gets a loop, whose addresses depend on what is accepted alone. */
FS_INLINE TARGET size_t compress(int32_t *out, uint32_t accepted, __m512i values)
{
#ifdef FS_MEMORY_SANITIZER
    int32_t lanes[16], *next = out;
    _mm512_storeu_si512(lanes, values);
    for (int i = 0; i < 16; i++) {
        *next = lanes[i];
        next += accepted >> i & 1;
    }
    return (size_t)(next - out);
#else
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi32((__mmask16)accepted, values));
    return (size_t)_mm_popcnt_u32(accepted & 0xffff);
#endif
}

TARGET size_t fs_avx512_bell(fs_bell_work *work)
{
    const fs_bell *bell = work->bell;
    table cells = load_table(bell->cells), slopes = load_table(bell->slopes), heights = load_table(bell->heights);
    __m512i mirrored = constant(bell->mirrored), offset_mask = constant(bell->offset_mask);
    __m512i one_step = constant(bell->step), curvature = constant(bell->curvature);
    __m512i first = _mm512_set1_epi32(bell->first);
    __m128i shift = _mm_cvtsi32_si128((int)(FS_BELL_SHOWN_BITS - bell->shown_bits));
    int wide = bell->block_bits > bell->shown_bits;
    size_t n_out = 0;
    for (size_t block = 0; block < FS_BELL_GROUP / FS_BELL_BLOCK; block++) {
        size_t at = FS_BELL_BLOCK * block;
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
        uint32_t accepted = fs_bell_told(even_first(_mm512_cmplt_epu16_mask(uniform, surely)));
        uint32_t possible = fs_bell_told(even_first(_mm512_cmple_epu16_mask(uniform, maybe)));
        if (accepted != possible)
            accepted = fs_bell_settle(work, block, n_out, accepted, accepted ^ possible);

        __m512i high = _mm512_or_si512(_mm512_slli_epi16(index, 1), _mm512_srli_epi16(offset, 15));
        __m512i low = _mm512_and_si512(_mm512_srli_epi16(choice, 7), constant(1));
        low = _mm512_xor_si512(_mm512_or_si512(low, _mm512_slli_epi16(offset, 1)), sign);
        high = _mm512_xor_si512(high, sign);
        __m512i even = _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
        __m512i odd = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(low, 16), high);
        if (wide) {
            size_t n_even = compress((int32_t *)work->further + n_out, accepted, _mm512_loadu_si512(work->rest + at));
            compress((int32_t *)work->further + n_out + n_even, accepted >> 16,
                     _mm512_loadu_si512(work->rest + at + 16));
        }
        n_out += compress(work->values + n_out, accepted, _mm512_add_epi32(_mm512_sra_epi32(even, shift), first));
        n_out += compress(work->values + n_out, accepted >> 16, _mm512_add_epi32(_mm512_sra_epi32(odd, shift), first));
    }
    return n_out;
}

#endif
