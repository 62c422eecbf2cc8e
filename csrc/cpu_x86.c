/* Which backends this CPU and its operating system run [Intel SDM, vol. 1, secs. 14.3, 15.2 to 15.4; vol. 2,
 * CPUID]. */
#include "x86.h"

#ifdef FS_X86_64

#ifdef _MSC_VER
#include <intrin.h>
#else
#include <cpuid.h>
#endif

typedef struct {
    uint32_t eax, ebx, ecx, edx;
} registers;

/* All zero where the CPU does not know the leaf. */
static registers cpuid(uint32_t leaf)
{
    registers r = {0, 0, 0, 0};
#ifdef _MSC_VER
    int values[4];
    __cpuid(values, 0);
    if ((uint32_t)values[0] >= leaf) {
        __cpuidex(values, (int)leaf, 0);
        r = (registers){(uint32_t)values[0], (uint32_t)values[1], (uint32_t)values[2], (uint32_t)values[3]};
    }
#else
    __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

/* The register states that the operating system saves: XCR0. Only where CPUID says that it can be read. */
FS_TARGET("xsave")
static uint64_t saved_states(void)
{
    return (uint64_t)_xgetbv(0);
}

enum { SSE_AND_AVX = 0x06, AVX512 = 0xe0 };

static int has(uint32_t flags, int bit)
{
    return (int)(flags >> bit & 1);
}

static int saves(uint64_t states)
{
    return has(cpuid(1).ecx, 27) && (saved_states() & states) == states; /* OSXSAVE */
}

static int has_vaes(void)
{
    return has(cpuid(7).ecx, 9);
}

int fs_runs_aesni(void)
{
    uint32_t flags = cpuid(1).ecx;
    return has(flags, 9) && has(flags, 19) && has(flags, 25); /* SSSE3, SSE4.1, AES */
}

int fs_runs_avx2(void)
{
    return fs_runs_aesni() && saves(SSE_AND_AVX) && has(cpuid(7).ebx, 5) && has(cpuid(1).ecx, 12); /* AVX2, FMA */
}

int fs_runs_avx2_vaes(void)
{
    return fs_runs_avx2() && has_vaes();
}

int fs_runs_avx512(void)
{
    uint32_t flags = cpuid(7).ebx;
    int has_all = has(flags, 8) && has(flags, 16) && has(flags, 17) && has(flags, 30); /* BMI2, AVX-512 F, DQ, BW */
    return fs_runs_avx2_vaes() && saves(SSE_AND_AVX | AVX512) && has_all && has(cpuid(1).ecx, 23); /* POPCNT */
}

#endif
