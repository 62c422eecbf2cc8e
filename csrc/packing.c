/* Residues mod 2^b on the wire: element j takes bits j b to j b + b - 1 of one little-endian string of bits
 * (bit i of it is bit i mod 8 of byte i / 8). The bits behind the last element are zero, so that a vector has
 * one encoding only. */
#include "core.h"

/* What is left of the last byte. */
static int padding_is_zero(const uint8_t *packed, size_t length, unsigned bits)
{
    uint64_t end = (uint64_t)length * bits;
    return end % 8 == 0 || packed[end / 8] >> end % 8 == 0;
}

/* Element j, with others' bits above its own, by loads that reach at most nine bytes from where it begins. */
static inline uint64_t wide_load(const uint8_t *packed, size_t j, unsigned bits)
{
    uint64_t begin = (uint64_t)j * bits;
    const uint8_t *p = packed + (size_t)(begin / 8);
    unsigned shift = (unsigned)(begin % 8);
    uint64_t value = fs_load64_le(p) >> shift;
    /* Two shifts of the ninth byte, as one by 64 would be undefined. */
    return bits > 57 ? value | (uint64_t)p[8] << 1 << (63 - shift) : value;
}

/* The same, touching no byte behind the element's last: for those near the end. */
static uint64_t narrow_load(const uint8_t *packed, size_t j, unsigned bits)
{
    uint64_t begin = (uint64_t)j * bits;
    const uint8_t *p = packed + (size_t)(begin / 8);
    uint64_t value = *p >> begin % 8;
    for (unsigned have = 8 - (unsigned)(begin % 8); have < bits; have += 8)
        value |= (uint64_t)*++p << have;
    return value;
}

/* How many elements begin nine bytes or more before the end. */
static size_t count_wide(size_t length, unsigned bits)
{
    size_t others = 9 * 8 / bits + 1;
    return length > others ? length - others : 0;
}

#define VALUE(before, value) (value)
#define SUM(before, value) ((before) + (value))
enum { VALUE_ADDS = 0, SUM_ADDS = 1 };

/* out[j] becomes RESULT of itself and element j, mod 2^b. Returns 0, and leaves out alone, when bits behind
 * the last element are set. */
#define DEFINE_READER(NAME, BITS, RESULT)                                                                  \
    int fs_##NAME##BITS(const fs_backend *backend, uint##BITS##_t *out, const uint8_t *packed,             \
                        size_t length, unsigned bits)                                                      \
    {                                                                                                      \
        uint##BITS##_t mask = (uint##BITS##_t)(UINT##BITS##_MAX >> (BITS - bits));                         \
        size_t j = 0, wide = count_wide(length, bits);                                                     \
        if (!padding_is_zero(packed, length, bits))                                                        \
            return 0;                                                                                      \
        if (bits == BITS)                                                                                  \
            for (; j < length; j++)                                                                        \
                out[j] = (uint##BITS##_t)RESULT(out[j], fs_load##BITS##_le(packed + BITS / 8 * j));        \
        else if (backend->read_packed)                                                                     \
            j = backend->read_packed(out, BITS, packed, length, bits, RESULT##_ADDS);                      \
        for (; j < wide; j++)                                                                              \
            out[j] = (uint##BITS##_t)(RESULT(out[j], wide_load(packed, j, bits)) & mask);                  \
        for (; j < length; j++)                                                                            \
            out[j] = (uint##BITS##_t)(RESULT(out[j], narrow_load(packed, j, bits)) & mask);                \
        return 1;                                                                                          \
    }

/* Writes fields of `width` bits each, one after the other: a window of 64 bits goes out whenever it is full. */
typedef struct {
    uint8_t *to;
    uint64_t window;
    unsigned filled;
} fs_writer;

static inline void put(fs_writer *writer, uint64_t field, unsigned width)
{
    writer->window |= field << writer->filled;
    writer->filled += width;
    if (writer->filled >= 64) {
        fs_store64_le(writer->to, writer->window);
        writer->to += 8;
        writer->filled -= 64;
        writer->window = writer->filled ? field >> (width - writer->filled) : 0;
    }
}

/* Eight residues fill `bits` bytes, so that such groups need not wait for each other; two make a field where they fit
 * into 64 bits. What a group writes past its end is overwritten by the next, and behind the last group that may do so
 * residues go one by one. Returns 0 when a residue has bits above the b-th; what is in packed is of no use then. */
#define DEFINE_PACK(BITS)                                                                                  \
    int fs_pack##BITS(uint8_t *packed, const uint##BITS##_t *residues, size_t length, unsigned bits)       \
    {                                                                                                      \
        uint64_t all = 0;                                                                                  \
        size_t j = 0, others = 8 + 64 / bits;                                                              \
        if (bits == BITS) {                                                                                \
            for (; j < length; j++)                                                                        \
                fs_store##BITS##_le(packed + BITS / 8 * j, residues[j]);                                   \
            return 1;                                                                                      \
        }                                                                                                  \
        for (; j + others < length; j += 8) {                                                              \
            fs_writer group = {packed + j / 8 * bits, 0, 0};                                               \
            const uint##BITS##_t *x = residues + j;                                                        \
            for (int i = 0; i < 8; i += 2) {                                                               \
                uint64_t a = x[i], b = x[i + 1];                                                           \
                all |= a | b;                                                                              \
                if (bits <= 32) {                                                                          \
                    put(&group, a | b << bits, 2 * bits);                                                  \
                } else {                                                                                   \
                    put(&group, a, bits);                                                                  \
                    put(&group, b, bits);                                                                  \
                }                                                                                          \
            }                                                                                              \
            fs_store64_le(group.to, group.window);                                                         \
        }                                                                                                  \
        fs_writer rest = {packed + j / 8 * bits, 0, 0};                                                    \
        for (; j < length; j++) {                                                                          \
            all |= residues[j];                                                                            \
            put(&rest, residues[j], bits);                                                                 \
        }                                                                                                  \
        for (unsigned written = 0; written < rest.filled; written += 8)                                    \
            *rest.to++ = (uint8_t)(rest.window >> written);                                                \
        return all >> bits == 0;                                                                           \
    }

DEFINE_READER(unpack, 16, VALUE)
DEFINE_READER(unpack, 32, VALUE)
DEFINE_READER(unpack, 64, VALUE)
DEFINE_READER(add_packed, 16, SUM)
DEFINE_READER(add_packed, 32, SUM)
DEFINE_READER(add_packed, 64, SUM)
DEFINE_PACK(16)
DEFINE_PACK(32)
DEFINE_PACK(64)
