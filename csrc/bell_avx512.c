/* The fast part of exact bells in AVX-512: 32 candidates at a time, tables in registers. */
#include "x86.h"

#ifdef FS_X86_64

#include "bell_filter.h"

#define TARGET FS_TARGET("avx512f,avx512bw,bmi2,popcnt")

/* Bytes of the output that are asked for ahead: a new array is in no cache. */
enum { AHEAD = 512 };

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

FS_INLINE TARGET __m512i complement(__mmask32 lanes, __m512i words)
{
    return _mm512_mask_sub_epi16(words, lanes, constant(UINT16_MAX), words);
}

/* The low 16 bits of one, the high ones of the other. */
FS_INLINE TARGET __m512i halves(__m512i low, __m512i high)
{
    const __m512i mask = _mm512_set1_epi32(0xffff);
    return _mm512_or_si512(_mm512_and_si512(mask, low), _mm512_andnot_si512(mask, high));
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

/* Stores those of 16 values that stand, as 32 or 64 bits each, plus `first` of that size; `rest` where that has bits of a
 * value. */
FS_INLINE TARGET uint8_t *keep(uint8_t *out, size_t size, uint32_t standing, __m512i shown, __m512i first,
                               const uint32_t *rest, __m128i hidden)
{
    if (rest && size == 4)
        shown = _mm512_or_si512(_mm512_sll_epi32(shown, hidden),
                                _mm512_srl_epi32(_mm512_loadu_si512(rest), _mm_sub_epi32(_mm_cvtsi32_si128(32), hidden)));
    __m512i kept = compress(standing, shown);
    _mm_prefetch((const char *)out + AHEAD, _MM_HINT_T0);
    if (size == 4) {
        _mm512_storeu_si512(out, _mm512_add_epi32(kept, first));
    } else {
        _mm_prefetch((const char *)out + AHEAD + 64, _MM_HINT_T0);
        __m256i left = _mm512_castsi512_si256(kept), right = _mm512_extracti64x4_epi64(kept, 1);
        __m512i more = rest ? compress(standing, _mm512_loadu_si512(rest)) : _mm512_setzero_si512();
        __m512i low = rest ? whole(left, _mm512_castsi512_si256(more), hidden) : _mm512_cvtepi32_epi64(left);
        __m512i high = rest ? whole(right, _mm512_extracti64x4_epi64(more, 1), hidden) : _mm512_cvtepi32_epi64(right);
        _mm512_storeu_si512(out, _mm512_add_epi64(low, first));
        _mm512_storeu_si512(out + 64, _mm512_add_epi64(high, first));
    }
    return out + size * (size_t)_mm_popcnt_u32(standing & 0xffff);
}

/* What a law's filter takes, and its values. */
typedef struct {
    int curved, skewed, wide;
    size_t size; /* of a value in bytes */
} shape;

/* A table's numbers in registers. */
typedef struct {
    shape kind;
    table cells, slopes[2], curvatures[2], heights[2];
    __m512i sign_bit, offset_mask, one_step, curvature, first, shift;
    __m128i hidden;
} registers;

FS_INLINE TARGET registers load_law(const fs_bell *bell, shape kind)
{
    return (registers){
        .kind = kind,
        .cells = load_table(bell->cells),
        .slopes = {load_table(bell->slopes[0]), load_table(bell->slopes[1])},
        .curvatures = {load_table(bell->curvatures[0]), load_table(bell->curvatures[1])},
        .heights = {load_table(bell->heights[0]), load_table(bell->heights[1])},
        .sign_bit = constant(bell->mirrored & 0x40),
        .offset_mask = constant(bell->offset_mask),
        .one_step = constant(bell->step),
        .curvature = constant(bell->curvatures[0][0]),
        .first = kind.size == 4 ? _mm512_set1_epi32((int32_t)bell->first) : _mm512_set1_epi64(bell->first),
        .hidden = _mm_cvtsi32_si128((int)fs_bell_hidden(bell)),
        .shift = _mm512_set1_epi32((int)(FS_BELL_SHOWN_BITS - bell->shown_bits)),
    };
}

/* A cell's number, of its side where a law is skewed. */
FS_INLINE TARGET __m512i of_cell(const registers *law, const table sides[2], __m512i index, __mmask32 left)
{
    __m512i found = look_up(sides[0], index);
    return law->kind.skewed ? _mm512_mask_mov_epi16(found, left, look_up(sides[1], index)) : found;
}

/* A block's values, and which of its candidates stand, and which may. */
typedef struct {
    __m512i even, odd;
    uint32_t standing, possible;
} candidates;

FS_INLINE TARGET candidates filter(const fs_bell_work *work, size_t at, const registers *law)
{
    __m512i choice = _mm512_loadu_si512(work->choices + at);
    __m512i uniform = _mm512_loadu_si512(work->uniforms + at);
    __m512i offset = _mm512_loadu_si512(work->offsets + at);

    __m512i found = look_up(law->cells, choice);
    __mmask32 own = _mm512_cmplt_epu16_mask(choice, _mm512_and_si512(found, constant(0xff00)));
    __m512i index = _mm512_mask_blend_epi16(own, found, choice); /* mod 64 */
    __mmask32 negative = _mm512_test_epi16_mask(choice, law->sign_bit);

    __m512i t = _mm512_and_si512(offset, law->offset_mask);
    t = _mm512_mask_adds_epu16(t, negative, t, law->one_step);
    __m512i curvature = law->kind.curved ? of_cell(law, law->curvatures, index, negative) : law->curvature;
    __m512i slope = _mm512_add_epi16(of_cell(law, law->slopes, index, negative), _mm512_mulhi_epu16(t, curvature));
    __m512i v = _mm512_mulhi_epu16(t, slope);
    __m512i e = step(FS_BELL_C3, v, constant(FS_BELL_C4));
    e = step(FS_BELL_C0, v, step(FS_BELL_C1, v, step(FS_BELL_C2, v, e)));
    __m512i acceptance = _mm512_mulhi_epu16(of_cell(law, law->heights, index, negative), _mm512_mulhi_epu16(e, e));
    __m512i surely = _mm512_subs_epu16(acceptance, constant(FS_BELL_MARGIN));
    __m512i maybe = _mm512_adds_epu16(acceptance, constant(FS_BELL_MARGIN));

    __m512i bit = _mm512_and_si512(_mm512_srli_epi16(choice, 7), constant(1));
    __m512i high = _mm512_and_si512(_mm512_slli_epi16(index, 1), constant(2 * FS_BELL_CELLS - 2));
    __m512i low = complement(negative, _mm512_or_si512(_mm512_slli_epi16(offset, 1), bit));
    high = complement(negative, _mm512_or_si512(high, _mm512_srli_epi16(offset, 15)));
    __m512i even = halves(low, _mm512_slli_epi32(high, 16)), odd = halves(_mm512_srli_epi32(low, 16), high);
    return (candidates){
        .even = _mm512_srav_epi32(even, law->shift),
        .odd = _mm512_srav_epi32(odd, law->shift),
        .standing = even_first(_mm512_cmplt_epu16_mask(uniform, surely)),
        .possible = even_first(_mm512_cmple_epu16_mask(uniform, maybe)),
    };
}

/* Stores the next block's variates, if it is decided; NULL if not. */
FS_INLINE TARGET uint8_t *keep_block(fs_bell_work *work, uint8_t *out, const registers *law, candidates found)
{
    if (!fs_bell_decided(work, &found.standing, found.possible))
        return NULL;
    const uint32_t *rest = work->rest + FS_BELL_BLOCK * work->block++;
    int wide = law->kind.wide;
    out = keep(out, law->kind.size, found.standing, found.even, law->first, wide ? rest : NULL, law->hidden);
    return keep(out, law->kind.size, found.standing >> 16, found.odd, law->first, wide ? rest + 16 : NULL, law->hidden);
}

/* Two blocks at a time, as each is a long chain of operations. */
FS_INLINE TARGET size_t draw(fs_bell_work *work, uint8_t *out, shape kind)
{
    registers law = load_law(work->bell, kind);
    uint8_t *next = out, *end;
    while (work->block < FS_BELL_BLOCKS) {
        size_t pair = work->block & ~(size_t)1;
        candidates left = filter(work, FS_BELL_BLOCK * pair, &law);
        candidates right = filter(work, FS_BELL_BLOCK * (pair + 1), &law);
        if (work->block == pair) {
            if (!(end = keep_block(work, next, &law, left)))
                break;
            next = end;
        }
        if (!(end = keep_block(work, next, &law, right)))
            break;
        next = end;
    }
    return (size_t)(next - out) / kind.size;
}

/* One body for each kind, whose constants stay in registers. */
#define DEFINE_BELL(BITS)                                                                    \
    TARGET size_t fs_avx512_bell##BITS(fs_bell_work *work, int##BITS##_t *out)               \
    {                                                                                        \
        const fs_bell *bell = work->bell;                                                    \
        if (fs_bell_hidden(bell) > 0)                                                        \
            return draw(work, (uint8_t *)out, (shape){.wide = 1, .size = sizeof *out});       \
        if (bell->skewed)                                                                    \
            return draw(work, (uint8_t *)out, (shape){1, 1, 0, sizeof *out});                 \
        if (bell->curved)                                                                    \
            return draw(work, (uint8_t *)out, (shape){.curved = 1, .size = sizeof *out});     \
        return draw(work, (uint8_t *)out, (shape){.size = sizeof *out});                      \
    }

DEFINE_BELL(32)
DEFINE_BELL(64)

#endif
