/* Sets for which the arithmetic has no room: in float64, element by element. */
#ifndef FASTNORM_EXCEPTIONAL_H
#define FASTNORM_EXCEPTIONAL_H

#include "gradients.h"
#include "moments.h"

/* The moments of the pieces first..last-1 of the set of rows that begins at x. */
void exceptional_moments(const Plan *plan, const RowsPlan *rows, const char *x, ptrdiff_t first,
                         ptrdiff_t last, Moments *out);

/* An element, and the nearest to a value; subnormal floats are read as integers, because processors
 * take long over them. */
double element_at(int dtype, const char *p);
void element_put(int dtype, char *p, double value);

/* (x - mean) * rstd * weight + bias, where intermediates may leave the range. */
double exceptional_result(double x, const Stat *s, double weight, double bias);

/* Apply to n elements; weight and bias are of the type of the arithmetic, `step` apart. */
typedef struct {
    const void *weight, *bias; /* at the first element; NULL: none */
    ptrdiff_t step;
} ElementParams;

void exceptional_apply(int dtype, const char *x, char *y, ptrdiff_t n, const Stat *s,
                       const ElementParams *params);

/* An exceptional set of a backward pass: elements as the forward has them, and the gradient. */
typedef struct {
    const char *x, *grad;
    double mean, rstd;
} ElementPair;

double exceptional_xhat(double x, double mean, double rest, double rstd);

/* dx of an element; its xhat has the shift of the set subtracted. */
double exceptional_dx(double grad, double weight, double xhat, double rstd, const GradStat *s);

/* Add n elements to the sums, shrunk if these are; the weight, of the type of the arithmetic,
 * multiplies the gradient if `params` has one. */
void exceptional_grad_sums(const Job *job, const ElementPair *e, ptrdiff_t n,
                           const ElementParams *params, GradSums *sums);

/* dx of n elements, which may be where the gradient is. */
void exceptional_grad_apply(const Job *job, const ElementPair *e, char *dx, ptrdiff_t n,
                            const ElementParams *params, const GradStat *s);

#endif
