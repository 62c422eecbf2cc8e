/* Renyi divergences of Gaussian noise on Poisson samples, by the trapezoidal rule.
 *
 * The integral, its windows and its step are derived in fedsec/accounting/rdp_sampled.py, where (*) stands too.
 * Each function of the library may err by two units in the last place: `exponent_at` charges for that. */
#include <math.h>

#include "core.h"

#define ROUNDING 0x1p-50        /* charged for each term of an exponent */
#define REACH 8.5               /* standard deviations around a peak; what lies beyond is below e^-31 of it */
#define LOWEST (-690.0)         /* logarithm of an integral that is as good as zero */
#define DEPTH 34.0              /* a window may end where the integrand has fallen to e^-34 of its peak */
#define LARGEST_SHIFT 1e5       /* of `drawn`, and */
#define LARGEST_PEAK 1e7        /* where its highest peak may lie: squares of z drown unit widths beyond */
#define LARGEST_DISTANCE 20.0   /* shift of `replaced`, beyond which its bounds do */
#define MOST_POINTS 20000.0     /* of one order of `replaced` */
#define ROOT_TWO_PI 2.5066282746310005024
#define PI 3.14159265358979323846

typedef struct {
    double q, t;
    double kink;  /* where a draw is as likely sampled as not */
    int replaced; /* Q is the mirror image of P, not N(0, 1) */
} pair;

/* All that the integrand at z needs, whatever the order. */
typedef struct {
    double loss;
    double decay;     /* e^-|loss| */
    double remainder; /* of -loss */
    double level;     /* logarithm of Q's density times sqrt(2 pi) */
    double doubt;     /* of the loss, in units of ROUNDING */
    double square;    /* z^2 / 2 */
} node;

/* The points start, start + step, ...; the first ones are kept, for all orders have them in common. */
enum { KEPT = 256 };

typedef struct {
    const pair *of;
    double start, step;
    size_t known;
    node nodes[KEPT];
} grid;

/* e^top total is the sum over the points before `next`; `height` is the highest logarithm of the integrand met. */
typedef struct {
    double beta;
    double top, total;
    double height;
    size_t next;
} integral;

/* log(1 - q + q e^y), to full relative accuracy near 0. */
static double mixed(double q, double y)
{
    return y > 600.0 ? y + log(q + (1.0 - q) * exp(-y)) : log1p(q * expm1(y));
}

static double log_odds(double q)
{
    return log(q) - log1p(-q);
}

static double logistic(double x)
{
    return 1.0 / (1.0 + exp(-x));
}

/* e^-max(x, 0) (e^x - 1 - x), to full relative accuracy, given e^-|x|. */
static double remainder_of(double x, double decay)
{
    if (x >= 0.3)
        return 1.0 - (1.0 + x) * decay;
    if (x <= -0.3)
        return decay - 1.0 - x;
    static const double divisors[] = {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0,
                                      720.0,       120.0,      24.0,      6.0,      2.0};
    double series = 0.0;
    for (size_t k = 0; k < sizeof divisors / sizeof *divisors; k++)
        series = series * x + 1.0 / divisors[k];
    return series * x * x * (x > 0.0 ? decay : 1.0);
}

static node node_at(const pair *of, double z)
{
    double weight = of->replaced ? mixed(of->q, -of->t * (z + 0.5 * of->t)) : 0.0;
    double loss = mixed(of->q, of->t * (z - 0.5 * of->t)) - weight;
    double decay = exp(-fabs(loss)), square = 0.5 * z * z;
    return (node){.loss = loss,
                  .decay = decay,
                  .remainder = remainder_of(-loss, decay),
                  .level = weight - square,
                  .doubt = of->t * fabs(z) + fabs(loss),
                  .square = square};
}

/* The integrand is e^exponent factor / sqrt(2 pi), neither of which overflows. */
static double exponent_at(const node *at, double beta)
{
    double tilt = at->loss > 0.0 ? at->loss + beta * at->loss : 0.0;
    return tilt + at->level + ROUNDING * ((beta + 1.0) * at->doubt + at->square);
}

static double factor_at(const node *at, double beta)
{
    double x = beta * at->loss, decay = exp(-fabs(x)), own = remainder_of(x, decay);
    return at->loss > 0.0 ? own + beta * at->remainder * decay : own * at->decay + beta * at->remainder;
}

static double height_at(const node *at, double beta)
{
    return exponent_at(at, beta) + log(factor_at(at, beta));
}

static void probe(integral *sum, const node *at)
{
    sum->top = fmax(sum->top, exponent_at(at, sum->beta));
    sum->height = fmax(sum->height, height_at(at, sum->beta));
}

/* Moves an end outwards in doubling strides until the integrand has fallen low enough. */
static double outwards(const integral *sum, const pair *of, double end, double stride)
{
    for (;; end += stride, stride *= 2.0) {
        node at = node_at(of, end);
        if (!(height_at(&at, sum->beta) > sum->height - DEPTH))
            return end;
    }
}

static void add_point(integral *sum, const node *at)
{
    double exponent = exponent_at(at, sum->beta);
    if (exponent > sum->top) {
        sum->total *= exp(sum->top - exponent);
        sum->top = exponent;
    }
    sum->total += exp(exponent - sum->top) * factor_at(at, sum->beta);
}

/* Adds the points of a window, those already added left out. */
static void add_window(integral *sum, grid *on, double left, double right)
{
    double first = floor((left - on->start) / on->step), last = ceil((right - on->start) / on->step);
    size_t k = first > (double)sum->next ? (size_t)first : sum->next;
    for (; (double)k <= last; k++) {
        if (k < KEPT) {
            for (; on->known <= k; on->known++)
                on->nodes[on->known] = node_at(on->of, on->start + on->step * (double)on->known);
            add_point(sum, &on->nodes[k]);
        } else {
            node at = node_at(on->of, on->start + on->step * (double)k);
            add_point(sum, &at);
        }
    }
    sum->next = k;
}

/* log(1 + integral) */
static double cumulant(const integral *sum, double step)
{
    double excess = sum->top + log(sum->total * (step / ROOT_TWO_PI));
    return fmax(excess, 0.0) + log1p(exp(-fabs(excess)));
}

static pair pair_of(double q, double t, int replaced)
{
    return (pair){.q = q, .t = t, .kink = 0.5 * t - log_odds(q) / t, .replaced = replaced};
}

static double step_of(double t)
{
    return t < 0.38 ? 0.75 : 2.0 / (34.0 * t / (PI * PI) + 0.5 / t);
}

/* The stationary point z = alpha t s(z) next to the start z, s the posterior of being sampled.
 *
 * Newton's method from 0 climbs to the lowest one, from alpha t it falls to the highest one, both monotonely
 * [s is convex below the kink and concave above]. Where the slope is flat plain iteration crawls instead; then
 * the integrand is flat too, and `outwards` widens the window. */
static double peak(const pair *of, double z, double pull)
{
    for (int i = 0; i < 8; i++) {
        double s = logistic(of->t * (z - of->kink)), before = z;
        double slope = 1.0 - pull * of->t * s * (1.0 - s);
        z = fmin(fmax(z - (z - pull * s) / (slope > 0.1 ? slope : 1.0), 0.0), pull);
        if (fabs(z - before) <= 1e-9 * z)
            break;
    }
    return z;
}

/* A window around 0, one up to t and the low peak, the high peak's. Between them the integrand has no maximum and
 * is below e^-34 of its height at the peak. In a split pair the kink lies so deep between the peaks at 0 and t
 * that it is nothing. */
static double drawn(grid *on, double beta, int split, const node probes[2], double middle)
{
    const pair *of = on->of;
    double pull = (beta + 1.0) * of->t, low = peak(of, 0.0, pull), high = peak(of, pull, pull);
    node lowest = node_at(of, low), highest = node_at(of, high);
    integral sum = {.beta = beta, .top = -HUGE_VAL, .height = LOWEST};
    probe(&sum, &probes[0]);
    probe(&sum, &probes[1]);
    probe(&sum, &lowest);
    probe(&sum, &highest);
    int lone = high - low < REACH; /* the window of the high peak sees to the low one */
    double middle_end = outwards(&sum, of, (lone ? middle : fmax(middle, low)) + REACH, REACH);
    double high_start = outwards(&sum, of, high - REACH, -REACH);
    double high_end = outwards(&sum, of, high + REACH, REACH);
    if (split)
        add_window(&sum, on, -REACH, REACH);
    add_window(&sum, on, split ? of->t - REACH : -REACH, middle_end);
    add_window(&sum, on, high_start, high_end);
    return cumulant(&sum, on->step);
}

void fs_drawn_cumulants(double *out, const double *beta, size_t length, double q, double t)
{
    pair of = pair_of(q, t, 0);
    int split = 0.5 * t - fabs(log_odds(q)) / t > 9.0;
    double middle = fmax(t, fmin(2.0 * t, of.kink));
    const node probes[2] = {node_at(&of, -1.0), node_at(&of, middle + 1.0)};
    grid on = {.of = &of, .start = -REACH, .step = split ? 0.5 : step_of(t), .known = 0};
    for (size_t i = 0; i < length; i++) {
        int within = t < LARGEST_SHIFT && (beta[i] + 1.0) * t < LARGEST_PEAK;
        out[i] = within ? drawn(&on, beta[i], split, probes, middle) : HUGE_VAL;
    }
}

/* One window, from below Q's lower part to beyond the highest peak. */
static double replaced(const pair *of, double beta)
{
    double t = of->t, high = (2.0 * beta + 1.0) * t;
    for (int i = 0; i < 40; i++) { /* falls to the highest stationary point */
        double there = logistic(t * (high - of->kink)), back = logistic(-t * (high + of->kink));
        high = t * ((beta + 1.0) * there + beta * back);
    }
    const node probes[3] = {node_at(of, -t), node_at(of, t + 1.0), node_at(of, high)};
    integral sum = {.beta = beta, .top = -HUGE_VAL, .height = LOWEST};
    for (size_t i = 0; i < 3; i++)
        probe(&sum, &probes[i]);
    double right = outwards(&sum, of, fmax(high, t) + REACH, REACH);
    grid on = {.of = of, .start = -t - REACH, .known = 0};
    on.step = fmin(step_of(t), 0.75 / sqrt(1.0 + 0.25 * beta * t * t));
    if (!((right - on.start) / on.step < MOST_POINTS))
        return HUGE_VAL;
    add_window(&sum, &on, on.start, right);
    return cumulant(&sum, on.step);
}

void fs_replaced_cumulants(double *out, const double *beta, size_t length, double q, double t)
{
    pair of = pair_of(q, t, 1);
    for (size_t i = 0; i < length; i++)
        out[i] = t < LARGEST_DISTANCE ? replaced(&of, beta[i]) : HUGE_VAL;
}
