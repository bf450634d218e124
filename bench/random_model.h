/* A model of a known shape with random weights in this process's memory, as the bake would write it
 * (INT4 in groups, INT8 embedding and head): for measurements that need its size and no file. */
#ifndef OFR_BENCH_RANDOM_MODEL_H
#define OFR_BENCH_RANDOM_MODEL_H

#include "engine/model.h"

typedef struct random_model {
    ofr_model model;
    ofr_model_params params;
    ofr_tensor *tensors; /* owned, with their data */
    size_t n_tensors;
} random_model;

/* NULL: no shape has this name, or no memory. "mistral-7b", "smollm2-135m". */
random_model *random_model_new(const char *shape, uint32_t group);
random_model *random_model_free(random_model *model);

#endif
