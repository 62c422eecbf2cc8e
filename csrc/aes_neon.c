/* AES-CTR masked sums on the 128-bit vectors of 64-bit Arm, NEON and AES.
 *
 * Its instructions cut the rounds of [FIPS 197, sec. 5.1] elsewhere than those of x86: AESE is AddRoundKey,
 * SubBytes and ShiftRows, AESMC is MixColumns. So a round here begins with the MixColumns of the one before,
 * and the last one is an addition. */
#include "arm.h"

#if defined(FS_ARM64) && defined(FS_ARM64_AES)

#define NAME(x) fs_neon_##x
#ifdef __clang__
#define TARGET FS_TARGET("aes")
#else
#define TARGET FS_TARGET("+crypto")
#endif
#define VECTOR uint8x16_t
#define ROUND_KEY vld1q_u8
#define REPEAT32(x) vreinterpretq_u8_u32(vdupq_n_u32(x))
#define REPEAT64(x) vreinterpretq_u8_u64(vdupq_n_u64(x))
#define REPEAT_COUNTER(block) vreinterpretq_u8_u32(vsetq_lane_u32(block, vdupq_n_u32(0), 3))
#define LOAD vld1q_u8
#define LOAD_EVERY_OTHER LOAD
#define STORE vst1q_u8
#define AND vandq_u8
#define XOR veorq_u8
#define ADD16(a, b) vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)))
#define ADD32(a, b) vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)))
#define ADD64(a, b) vreinterpretq_u8_u64(vaddq_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)))
#define SHIFT_COLUMNS(x, by) vextq_u8(vdupq_n_u8(0), x, 16 - 4 * (by))
#define SHUFFLE vqtbl1q_u8
#define REVERSE_COUNTERS vrev32q_u8
#define AES_FIRST_KEY vaeseq_u8
#define AES_ROUND(state, key) vaeseq_u8(vaesmcq_u8(state), key)
#define AES_LAST_ROUND veorq_u8
#define SPLIT_ROUNDS 1
#define FIRST_COUNTERS vdupq_n_u8(0)
/* AESE with a key of zeros, and the constant behind it. */
#define SUBSTITUTE(x, constant) veorq_u8(vaeseq_u8(x, vdupq_n_u8(0)), constant)

#include "aes_vector.h"

#endif
