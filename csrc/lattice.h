/* The fast part of drawing from a law on the integers that is in a table (lattice.c), one body for all
 * instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x) and TARGET. The loops are plain C that
 * compilers turn into vectors, gathers included; integers only, so that all give the same. */

/* The cell that a word draws: the alias method [Wal77]. A word's leading index_bits bits choose a cell, and the
 * rest is compared with the leading bits of the cell's threshold, which `cells` holds above the alias. Equal
 * bits decide nothing yet, and open what follows. */
FS_INLINE TARGET uint32_t draw_cell(const fs_law *law, uint32_t word, uint8_t *open)
{
    unsigned k = law->index_bits;
    uint32_t index = word >> (32 - k), entry = law->cells[index];
    uint32_t fraction = word & (UINT32_MAX >> k), threshold = entry >> k;
    *open = fraction == threshold;
    return fraction < threshold ? index : entry & ((UINT32_C(1) << k) - 1);
}

/* Cells of words. */
TARGET void NAME(lattice_points)(const fs_law *law, uint32_t *restrict cells, uint8_t *restrict open,
                                 const uint32_t *restrict words)
{
    fs_law local = *law;
    for (size_t j = 0; j < FS_LATTICE_GROUP; j++)
        cells[j] = draw_cell(&local, words[j], &open[j]);
}

/* Values in blocks of 2^block_bits integers, for cells that are drawn: the low bits of uniform words choose one,
 * which is accepted where the high 16 bits are below the block's least acceptance. */
TARGET void NAME(lattice_blocks)(const fs_law *law, uint64_t *restrict values, uint8_t *restrict open,
                                 const uint32_t *restrict cells, const uint64_t *restrict offsets)
{
    const uint32_t *least = law->least;
    unsigned block_bits = law->block_bits;
    uint64_t within = (UINT64_C(1) << block_bits) - 1;
    for (size_t j = 0; j < FS_LATTICE_GROUP; j++)
        values[j] = ((uint64_t)cells[j] << block_bits) + (offsets[j] & within);
    for (size_t j = 0; j < FS_LATTICE_GROUP; j++)
        open[j] |= (uint32_t)(offsets[j] >> 48) >= least[cells[j]];
}
