#include "gradients.h"
#include "../plan/nest.h"
#include <string.h>

/* ---- rows ---- */

GradStat grad_finish_row_set(const Job *job, ptrdiff_t set, ptrdiff_t param) {
    const Plan *plan = &job->plan;
    GradSums *sums = grad_row_sums(job, set), total = {0, 0, 0, WITHIN};
    Cursor run;
    const int per_run = has_param(&plan->rows.runs);
    cursor_at(&run, &plan->rows.runs, 0);
    for (ptrdiff_t i = 0; i < job->backward.sums_per_set; i++) {
        const double w = plan->along ? 1 : grad_weight(job, param + (per_run ? run.at.param : 0));
        const GradSums weighted = grad_sums_weighted(&sums[i], w);
        grad_sums_add(&total, &weighted);
        if (per_run && i + 1 < job->backward.sums_per_set)
            cursor_next(&run);
    }
    const GradStat s = grad_finish(job, (double)plan->count, &total);
    for (ptrdiff_t i = 0; i < job->backward.sums_per_set; i++)
        sums[i].gx -= s.shift * sums[i].g;
    return s;
}

void grad_reduce_rows(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const Plan *plan = &job->plan;
    const int per_run = has_param(&plan->rows.runs);
    Cursor set;
    (void)arena;
    (void)first;
    (void)last;
    memset(job->dweight, 0, 2 * (size_t)job->backward.params * sizeof(double));
    cursor_at(&set, &plan->sets, 0);
    for (ptrdiff_t i = 0; i < plan->sets.count; i++, cursor_next(&set)) {
        const GradSums *sums = grad_row_sums(job, i);
        Cursor run;
        cursor_at(&run, &plan->rows.runs, 0);
        for (ptrdiff_t k = 0; k < job->backward.sums_per_set; k++) {
            const ptrdiff_t param = set.at.param + (per_run ? run.at.param : 0);
            job->dweight[param] += grad_term(&sums[k], sums[k].gx);
            job->dbias[param] += grad_term(&sums[k], sums[k].g);
            if (per_run && k + 1 < job->backward.sums_per_set)
                cursor_next(&run);
        }
    }
}

/* Tables of tasks, by ranges of parameters. */
void grad_reduce_tables(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ptrdiff_t params = job->backward.params;
    (void)arena;
    for (int k = 0; k < 2; k++) {
        double *to = k ? job->dbias : job->dweight;
        memset(to + first, 0, (size_t)(last - first) * sizeof(double));
        for (ptrdiff_t t = 0; t < job->backward.tasks; t++) {
            const double *table = job->tables + (2 * t + k) * params;
            for (ptrdiff_t i = first; i < last; i++)
                to[i] += table[i];
        }
    }
}

/* ---- columns ---- */

GradStat grad_finish_column_set(const Job *job, ptrdiff_t block, ptrdiff_t set, ptrdiff_t param) {
    const Plan *plan = &job->plan;
    const ColumnsPlan *c = &plan->columns;
    const ptrdiff_t per_block = grad_block_sums(plan),
                    members = grad_by_column(plan) ? c->group : 1;
    GradSums *sums = job->sums + block * c->chunks * per_block + set * members;
    GradSums total = {0, 0, 0, WITHIN};
    for (ptrdiff_t i = 0; i < members; i++) {
        for (ptrdiff_t k = 1; k < c->chunks; k++)
            grad_sums_add(&sums[i], &sums[k * per_block + i]);
        const GradSums weighted = grad_sums_weighted(
            &sums[i], plan->along ? grad_weight(job, param + set * members + i) : 1);
        grad_sums_add(&total, &weighted);
    }
    const GradStat s = grad_finish(job, (double)plan->count, &total);
    for (ptrdiff_t i = 0; i < members; i++)
        sums[i].gx -= s.shift * sums[i].g;
    return s;
}

void grad_reduce_columns(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t per_block = grad_block_sums(&job->plan);
    Cursor block;
    (void)arena;
    (void)first;
    (void)last;
    memset(job->dweight, 0, 2 * (size_t)job->backward.params * sizeof(double));
    cursor_at(&block, &job->plan.sets, 0);
    for (ptrdiff_t b = 0; b < job->plan.sets.count; b++, cursor_next(&block)) {
        const GradSums *sums = job->sums + b * c->chunks * per_block;
        for (ptrdiff_t i = 0; i < per_block; i++) {
            job->dweight[block.at.param + i] += grad_term(&sums[i], sums[i].gx);
            job->dbias[block.at.param + i] += grad_term(&sums[i], sums[i].g);
        }
    }
}

/* Rows of columns that have a weight each: a table for each strip of each block. */
void grad_reduce_row_tables(const Job *job, char *arena, ptrdiff_t first, ptrdiff_t last) {
    const ColumnsPlan *c = &job->plan.columns;
    const ptrdiff_t rows = c->rows.count;
    Cursor block;
    (void)arena;
    (void)first;
    (void)last;
    memset(job->dweight, 0, 2 * (size_t)job->backward.params * sizeof(double));
    cursor_at(&block, &job->plan.sets, 0);
    for (ptrdiff_t b = 0; b < job->plan.sets.count; b++, cursor_next(&block)) {
        for (ptrdiff_t s = 0; s < job->backward.strips; s++) {
            const double *table = job->tables + (b * job->backward.strips + s) * 2 * rows;
            Cursor row;
            cursor_at(&row, &c->rows, 0);
            for (ptrdiff_t i = 0; i < rows; i++, cursor_next(&row)) {
                const ptrdiff_t param = block.at.param + row.at.param;
                job->dweight[param] += table[i];
                job->dbias[param] += table[rows + i];
            }
        }
    }
}
