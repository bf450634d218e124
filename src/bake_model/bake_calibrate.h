/* Calibration as a step of the bake: the matrices of all layers are quantized before anything is
 * written, and wait with their tensors (ofr_bake_tensor.made) until it is their turn. */
#ifndef OFR_BAKE_MODEL_BAKE_CALIBRATE_H
#define OFR_BAKE_MODEL_BAKE_CALIBRATE_H

#include "bake_model/bake.h"

typedef struct ofr_bake_calibration {
    const ofr_bake_options *options;
    ofr_bake_source *source;
    unsigned threads;
} ofr_bake_calibration;

/* Is this model calibrated under these options? *ret_why is what stands against it though its size
 * would ask for it, or NULL. OFR_EUNSUPPORTED where --calibrate asks for what cannot be. */
int ofr_bake_wants_calibration(const ofr_bake_options *options, const ofr_bake_model *model,
                               bool *ret_wanted, const char **ret_why, ofr_error *err);
/* Sets `made` of every matrix of the layers. */
int ofr_bake_calibrate(const ofr_bake_calibration *calibration, ofr_bake_loss *ret_loss,
                       ofr_error *err);

#endif
