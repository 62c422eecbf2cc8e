/* Sums and products of two independent variables with finitely many values, binned: what random allocation is
 * priced with.
 *
 * Both variables are lists of atoms with ascending values. A row combines one atom of the first with all of the
 * second: the results ascend, so the cell they fall into is found by walking. Within a cell and a row masses
 * are added before they are multiplied by the row's, which keeps tiny products out of the inner loop. */
#include <math.h>

#include "core.h"

typedef struct {
    double *mass;
    double *moment;
    const double *edges;
    const double *scales;
    size_t count;
} cells;

typedef struct {
    const double *value;
    const double *mass;
    size_t first, last; /* last is past the end */
} atoms;

/* The cell of a value that is not below the first edge. */
static size_t cell_of(const cells *to, double value)
{
    size_t low = 0, high = to->count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (to->edges[middle] <= value)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Leaves out, at both ends, atoms whose mass times the row's is below the floor. */
static atoms heavy_part(atoms b, double mass, double floor)
{
    while (b.first < b.last && b.mass[b.first] * mass < floor)
        b.first++;
    while (b.first < b.last && b.mass[b.last - 1] * mass < floor)
        b.last--;
    return b;
}

#define DEFINE_CELLS(NAME, OPERATOR)                                                                       \
    static void NAME##_row(const cells *to, double value, double mass, atoms b, double floor)              \
    {                                                                                                      \
        b = heavy_part(b, mass, floor);                                                                    \
        if (b.first == b.last)                                                                             \
            return;                                                                                        \
        size_t j = b.first;                                                                                \
        double now = value OPERATOR b.value[j];                                                            \
        for (size_t k = cell_of(to, now); j < b.last; k++) {                                               \
            double edge = to->edges[k], end = k + 1 < to->count ? to->edges[k + 1] : HUGE_VAL;             \
            double total = 0.0, moment = 0.0;                                                              \
            while (now < end) {                                                                            \
                total += b.mass[j];                                                                        \
                moment += b.mass[j] * ((now - edge) * to->scales[k]);                                      \
                now = ++j < b.last ? value OPERATOR b.value[j] : HUGE_VAL;                                 \
            }                                                                                              \
            to->mass[k] += mass * total;                                                                   \
            to->moment[k] += mass * moment;                                                                \
        }                                                                                                  \
    }                                                                                                      \
                                                                                                           \
    void fs_##NAME##_cells(double *mass, double *moment, const double *edges, const double *scales,        \
                           size_t n_cells, const double *value_a, const double *mass_a, size_t n_a,        \
                           const double *value_b, const double *mass_b, size_t n_b, double floor)          \
    {                                                                                                      \
        cells to = {mass, moment, edges, scales, n_cells};                                                 \
        for (size_t i = 0; i < n_a; i++)                                                                   \
            NAME##_row(&to, value_a[i], mass_a[i], (atoms){value_b, mass_b, 0, n_b}, floor);               \
    }                                                                                                      \
                                                                                                           \
    void fs_##NAME##_own_cells(double *mass, double *moment, const double *edges, const double *scales,    \
                               size_t n_cells, const double *value_a, const double *mass_a, size_t n_a,    \
                               double floor)                                                               \
    {                                                                                                      \
        cells to = {mass, moment, edges, scales, n_cells};                                                 \
        for (size_t i = 0; i < n_a; i++) {                                                                 \
            NAME##_row(&to, value_a[i], mass_a[i], (atoms){value_a, mass_a, i, i + 1}, floor);             \
            NAME##_row(&to, value_a[i], 2.0 * mass_a[i], (atoms){value_a, mass_a, i + 1, n_a}, floor);     \
        }                                                                                                  \
    }

DEFINE_CELLS(sum, +)
DEFINE_CELLS(product, *)
