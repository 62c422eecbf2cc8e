/* AES-CTR masked sums on the 128-bit vectors of 64-bit Arm, NEON and AES; and its key schedules.
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
#define REPEAT64(x) vreinterpretq_u8_u64(vdupq_n_u64(x))
#define REPEAT_COUNTER(block) vreinterpretq_u8_u32(vsetq_lane_u32(block, vdupq_n_u32(0), 3))
#define LOAD vld1q_u8
#define STORE vst1q_u8
#define AND vandq_u8
#define XOR veorq_u8
#define ADD16(a, b) vreinterpretq_u8_u16(vaddq_u16(vreinterpretq_u16_u8(a), vreinterpretq_u16_u8(b)))
#define ADD32(a, b) vreinterpretq_u8_u32(vaddq_u32(vreinterpretq_u32_u8(a), vreinterpretq_u32_u8(b)))
#define ADD64(a, b) vreinterpretq_u8_u64(vaddq_u64(vreinterpretq_u64_u8(a), vreinterpretq_u64_u8(b)))
#define REVERSE_COUNTERS vrev32q_u8
#define AES_FIRST_KEY vaeseq_u8
#define AES_ROUND(state, key) vaeseq_u8(vaesmcq_u8(state), key)
#define AES_LAST_ROUND veorq_u8
#define SPLIT_ROUNDS 1
#define FIRST_COUNTERS vdupq_n_u8(0)
#define EXPAND_KEYS expand_keys

/* SubWord [FIPS 197, sec. 5.2]: with the word in all four columns, ShiftRows changes nothing. */
FS_INLINE TARGET uint32_t sub_word(uint32_t word)
{
    uint8x16_t columns = vreinterpretq_u8_u32(vdupq_n_u32(word));
    return vgetq_lane_u32(vreinterpretq_u32_u8(vaeseq_u8(columns, vdupq_n_u8(0))), 0);
}

TARGET static void expand_keys(uint8_t *keys, const uint8_t *seeds, const int8_t *signs, size_t n, int rounds)
{
    int key_words = rounds - 6;
    for (size_t i = 0; i < n; i++, keys += FS_SCHEDULE(rounds), seeds += 32) {
        uint32_t round_constant = 1, temporary;
        memcpy(keys, seeds, 4 * (size_t)key_words);
        for (int w = key_words; w < 4 * (rounds + 1); w++) {
            temporary = fs_load32_le(keys + 4 * (w - 1));
            if (w % key_words == 0) {
                temporary = sub_word(temporary >> 8 | temporary << 24) ^ round_constant;
                round_constant = (round_constant << 1) ^ (round_constant >> 7) * 0x11b;
            } else if (key_words > 6 && w % key_words == 4) {
                temporary = sub_word(temporary);
            }
            fs_store32_le(keys + 4 * w, fs_load32_le(keys + 4 * (w - key_words)) ^ temporary);
        }
        if (rounds == FS_AES128_ROUNDS)
            for (int b = 0; b < 12; b++)
                keys[b] ^= seeds[16 + b];
        for (int b = 0; b < 16; b++)
            keys[16 * rounds + b] ^= (uint8_t)(0 - (signs[i] < 0));
    }
}

#include "aes_vector.h"

#endif
