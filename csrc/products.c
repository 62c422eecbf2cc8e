/* The clipped sum of the records' gradients of a matrix, each a sum of outer products. Kernels: products.h.
 *
 * Values and weights are secret: no branch and no address depends on them. Scratch memory is wiped. */
#include "core.h"

/* Tiles and panels, as far as they may have been written to: a matrix of few rows has not filled them. */
static void wipe(const fs_product *product, double *scratch)
{
    const size_t terms = product->terms, panel = terms * FS_TILE;
    size_t most = panel > FS_PANELS ? panel : FS_PANELS, used = terms * (product->m + FS_TILE);
    fs_wipe(scratch, FS_TALL * FS_TILE * sizeof(double) + (panel + (used < most ? used : most)) * sizeof(float));
}

void fs_products32(const fs_backend *backend, float *total, const fs_product *product, int fresh, double *scratch)
{
    backend->products32(total, product, fresh, scratch);
    wipe(product, scratch);
}

void fs_products64(const fs_backend *backend, double *total, const fs_product *product, int fresh, double *scratch)
{
    backend->products64(total, product, fresh, scratch);
    wipe(product, scratch);
}
