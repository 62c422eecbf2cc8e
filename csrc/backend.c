/* The list of backends, and the two services that no instruction set changes. */
#include "core.h"

#include <string.h>

extern const fs_backend fs_backend_generic;

static const fs_backend *const backends[] = {&fs_backend_generic};

const fs_backend *fs_backend_at(size_t index)
{
    return index < sizeof backends / sizeof backends[0] ? backends[index] : NULL;
}

const char *fs_backend_name(const fs_backend *backend)
{
    return backend->name;
}

/* Called through a volatile pointer, so that no compiler can tell that the stores are dead. */
static void *(*const volatile wipe_with)(void *, int, size_t) = memset;

void fs_wipe(void *secret, size_t length)
{
    wipe_with(secret, 0, length);
}
