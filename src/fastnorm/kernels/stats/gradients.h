#ifndef FASTNORM_GRADIENTS_H
#define FASTNORM_GRADIENTS_H
#include "../plan/plan.h"
#endif
