/* Who computes what, and when: stages, batches, strips, stores.  A schedule changes no bit. */
#ifndef FASTNORM_SCHEDULE_H
#define FASTNORM_SCHEDULE_H

#include "plan.h"

/* Complete a job whose plan was laid out: how results are stored, its stages, and how much memory
 * they need between them (moments_count and so on; 0: none).  `kept_stats`: the caller wants the
 * statistics.  x and y, and what a backward pass reads, are known. */
void schedule_forward(Job *job, int kept_stats);
void schedule_backward(Job *job);

#endif
