/* Normal variates in portable C, a pair at a time. Tables are read whole: no address depends on a word. */
#include "floats.h"
#include "generic.h"

#define NAME(x) fs_generic_##x
#define TARGET

typedef const float *table32;
typedef const double *table64;

/* Masks are all ones or zero. */
FS_INLINE uint32_t negative32(float x)
{
    return 0 - (fs_single_bits(x) >> 31);
}

FS_INLINE uint64_t negative64(double x)
{
    return 0 - (fs_double_bits(x) >> 63);
}

FS_INLINE float choose32(uint32_t side, float x, float y)
{
    return fs_as_single((fs_single_bits(x) & side) | (fs_single_bits(y) & ~side));
}

FS_INLINE double choose64(uint64_t side, double x, double y)
{
    return fs_as_double((fs_double_bits(x) & side) | (fs_double_bits(y) & ~side));
}

FS_INLINE uint64_t is_entry(uint64_t index, uint64_t entry)
{
    return 0 - ((((index ^ entry) & 15) - 1) >> 63);
}

FS_INLINE float look_up32(table32 table, uint32_t index)
{
    uint32_t found = 0;
    for (uint32_t entry = 0; entry < 16; entry++)
        found |= fs_single_bits(table[entry]) & (uint32_t)is_entry(index, entry);
    return fs_as_single(found);
}

FS_INLINE double look_up64(table64 table, uint64_t index)
{
    uint64_t found = 0;
    for (uint64_t entry = 0; entry < 16; entry++)
        found |= fs_double_bits(table[entry]) & is_entry(index, entry);
    return fs_as_double(found);
}

#define WORDS32 uint32_t
#define LOAD_WORDS32(p) fs_load32_le((const uint8_t *)(p))
#define ADD_WORDS(x, number) ((x) + (number))
#define MULTIPLY_WORDS(x, number) ((x) * (number))
#define SHIFT_LEFT(x, bits) ((x) << (bits))
#define SHIFT_RIGHT(x, bits) ((x) >> (bits))

#define FLOATS float
#define SET32(x) (x)
#define LOAD32(p) (*(p))
#define STORE32(p, x) (*(p) = (x))
#define TO_FLOATS(word) ((float)(int32_t)(word))
#define ADD32(x, y) ((x) + (y))
#define SUB32(x, y) ((x) - (y))
#define MUL32(x, y) ((x) * (y))
#define FMA32 fmaf
#define SQRT32 sqrtf
#define SIDE32 uint32_t
#define NEGATIVE32 negative32
#define CHOOSE32 choose32
#define MIN32(x, y) choose32(negative32((x) - (y)), x, y)
#define EXPONENT32(x) ((float)((int32_t)(fs_single_bits(x) >> 23) - 127))
#define HALF_MANTISSA32(x) fs_as_single((fs_single_bits(x) & 0x007fffff) | 0x3f000000)
#define LEADING32(x) (fs_single_bits(x) >> 19)
#define TABLE32 table32
#define TABLE_OF32(entries) (entries)
#define LOOK_UP32 look_up32

#define WORDS64 uint64_t
#define LOAD_WORDS64(p) fs_load64_le((const uint8_t *)(p))

#define DOUBLES double
#define SET64(x) (x)
#define LOAD64(p) (*(p))
#define STORE64(p, x) (*(p) = (x))
#define TO_DOUBLES(word) ((double)(int64_t)(word))
#define ADD64(x, y) ((x) + (y))
#define SUB64(x, y) ((x) - (y))
#define MUL64(x, y) ((x) * (y))
#define FMA64 fma
#define SQRT64 sqrt
#define SIDE64 uint64_t
#define NEGATIVE64 negative64
#define CHOOSE64 choose64
#define MIN64(x, y) choose64(negative64((x) - (y)), x, y)
#define EXPONENT64(x) ((double)((int32_t)(fs_double_bits(x) >> 52) - 1023))
#define HALF_MANTISSA64(x) \
    fs_as_double((fs_double_bits(x) & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3fe0000000000000))
#define LEADING64(x) (fs_double_bits(x) >> 48)
#define TABLE64 table64
#define TABLE_OF64(entries) (entries)
#define LOOK_UP64 look_up64

#include "normal.h"
