/* The fast part of drawing from a law on the integers that is in a table (lattice.c), one body for all
 * instruction sets.
 *
 * Included by one file an instruction set, which defines NAME(x) and TARGET. The loops are plain C that
 * compilers turn into vectors, gathers included; integers only, so that all give the same. */

/* Cells of words by the alias method [Wal77]: a word's leading index_bits bits choose a column, and the rest is
 * compared with the column's threshold, which `cells` holds above the alias. What is beyond all other cells is
 * in the last one, and open. */
TARGET void NAME(lattice_points)(const fs_law *law, uint32_t *restrict cells, uint8_t *restrict open,
                                 const uint32_t *restrict words)
{
    const uint32_t *entries = law->cells;
    unsigned k = law->index_bits;
    uint32_t last = (UINT32_C(1) << k) - 1;
    for (size_t j = 0; j < FS_LATTICE_GROUP; j++) {
        uint32_t index = words[j] >> (32 - k), entry = entries[index];
        cells[j] = (words[j] & (UINT32_MAX >> k)) < entry >> k ? index : entry & last;
        open[j] = cells[j] == last;
    }
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
