/* ChaCha20 on the 128-bit vectors of 64-bit Arm: NEON. */
#include "arm.h"

#ifdef FS_ARM64

#define NAME(x) fs_neon_##x
#define TARGET
#define VECTOR uint32x4_t
#define SETS 1
#define REPEAT32 vdupq_n_u32
#define REPEAT64(x) vreinterpretq_u32_u64(vdupq_n_u64(x))
#define LOAD(p) vreinterpretq_u32_u8(vld1q_u8(p))
#define STORE(p, x) vst1q_u8(p, vreinterpretq_u8_u32(x))
#define AND vandq_u32
#define XOR veorq_u32
#define ADD16(a, b) vreinterpretq_u32_u16(vaddq_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b)))
#define ADD32 vaddq_u32
#define ADD64(a, b) vreinterpretq_u32_u64(vaddq_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)))
#define ROTATE16(x) vreinterpretq_u32_u16(vrev32q_u16(vreinterpretq_u16_u32(x)))
#define ROTATE12(x) vsriq_n_u32(vshlq_n_u32(x, 12), x, 20)
#define ROTATE8(x) vsriq_n_u32(vshlq_n_u32(x, 8), x, 24)
#define ROTATE7(x) vsriq_n_u32(vshlq_n_u32(x, 7), x, 25)
#define UNPACK_LOW32 vzip1q_u32
#define UNPACK_HIGH32 vzip2q_u32
#define UNPACK_LOW64(a, b) vreinterpretq_u32_u64(vzip1q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)))
#define UNPACK_HIGH64(a, b) vreinterpretq_u32_u64(vzip2q_u64(vreinterpretq_u64_u32(a), vreinterpretq_u64_u32(b)))
#define FIRST_COUNTERS vsetq_lane_u32(3, vsetq_lane_u32(2, vsetq_lane_u32(1, vdupq_n_u32(0), 1), 2), 3)

/* A vector has a part of one block in every four. */
FS_INLINE TARGET void store_every_fourth(uint8_t *out, VECTOR x)
{
    STORE(out, x);
}

#include "chacha20_vector.h"

#endif
