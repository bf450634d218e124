/* Which tensors of a checkpoint of the hub become which tensors of the package. */
#ifndef OFR_BAKE_MODEL_HF_MODEL_H
#define OFR_BAKE_MODEL_HF_MODEL_H

#include "bake_model/bake_source.h"
#include "bake_model/hf_config.h"
#include "bake_model/safetensors.h"

/* Fills model->tensors from the checkpoint's, whose shapes must be those of the configuration; a
 * tensor that is missing, or that nothing needs, is refused by name. model->group_size and
 * model->params are set. `path` is for errors. */
int ofr_hf_model_map(ofr_bake_model *model, const char *path, const ofr_hf_config *config,
                     const ofr_safetensors *set, ofr_error *err);

#endif
