/* Whether this CPU has the AES instructions, which are optional; NEON is part of every 64-bit Arm. Only the
 * operating system may tell [Linux, Documentation/arch/arm64/elf_hwcaps.rst]. */
#include "arm.h"

#ifdef FS_ARM64

#if defined(__linux__)
#include <sys/auxv.h>

int fs_runs_neon_aes(void)
{
    enum { HAS_AES = 1 << 3 };
    return (getauxval(AT_HWCAP) & HAS_AES) != 0;
}

#elif defined(_WIN32)
#include <windows.h>

int fs_runs_neon_aes(void)
{
    return IsProcessorFeaturePresent(PF_ARM_V8_CRYPTO_INSTRUCTIONS_AVAILABLE) != 0;
}

#else

/* Every 64-bit machine of Apple has them. */
int fs_runs_neon_aes(void)
{
#ifdef __APPLE__
    return 1;
#else
    return 0;
#endif
}

#endif
#endif
