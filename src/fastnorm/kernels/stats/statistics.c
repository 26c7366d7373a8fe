/* Statistics that the caller hands in, asks for, or lets follow the batches. */
#include "statistics.h"
#include "../plan/nest.h"
#include <math.h>

static double real_at(const Reals *r, ptrdiff_t i) {
    const char *p = r->data + i * r->stride;
    return r->wide ? *(const double *)p : (double)*(const float *)p;
}

static void set_real(const Reals *r, ptrdiff_t i, double value) {
    char *p = r->data + i * r->stride;
    if (r->wide)
        *(double *)p = value;
    else
        *(float *)p = (float)value;
}

static double stat_value(const Stat *s, int what) {
    return what == MEAN ? s->mean + s->rest : what == VARIANCE ? s->var : s->rstd;
}

void stats_given(Stat *stats, ptrdiff_t n, const Reals *mean, const Reals *var, double eps) {
    for (ptrdiff_t i = 0; i < n; i++) {
        stats[i].mean = real_at(mean, i);
        stats[i].rest = 0;
        stats[i].var = real_at(var, i);
        stats[i].rstd = 1.0 / sqrt(stats[i].var + eps);
    }
}

void stats_unknown(Stat *stats, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        stats[i].mean = stats[i].rest = stats[i].var = stats[i].rstd = NAN;
}

void stats_reorder(const Nest *order, const Stat *from, Stat *to) {
    Cursor cursor;
    cursor_at(&cursor, order, 0);
    for (ptrdiff_t i = 0; i < order->count; i++, cursor_next(&cursor))
        to[cursor.at.stat] = from[i];
}

void reals_reorder(const Nest *order, const void *from, void *to, int wide) {
    Cursor cursor;
    cursor_at(&cursor, order, 0);
    for (ptrdiff_t i = 0; i < order->count; i++, cursor_next(&cursor)) {
        if (wide)
            ((double *)to)[i] = ((const double *)from)[cursor.at.stat];
        else
            ((float *)to)[i] = ((const float *)from)[cursor.at.stat];
    }
}

void stats_take(const Stat *stats, ptrdiff_t n, int what, const Reals *to) {
    for (ptrdiff_t i = 0; i < n; i++)
        set_real(to, i, stat_value(&stats[i], what));
}

void stats_average(const Stat *stats, ptrdiff_t samples, ptrdiff_t n, int what, double factor,
                   double momentum, const Reals *running) {
    if (momentum == 0)
        return;
    for (ptrdiff_t i = 0; i < n; i++) {
        double sum = 0;
        for (ptrdiff_t k = i; k < samples * n; k += n)
            sum += stat_value(&stats[k], what);
        const double batch = sum / (double)samples * factor;
        const double kept = momentum == 1 ? 0 : (1 - momentum) * real_at(running, i);
        set_real(running, i, kept + momentum * batch);
    }
}
