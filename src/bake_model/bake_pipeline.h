/* The weights' way from the source to the package: the source's bytes are read once, in order of
 * the files, hashed on the way, converted by several threads and written in the same order. */
#ifndef OFR_BAKE_MODEL_BAKE_PIPELINE_H
#define OFR_BAKE_MODEL_BAKE_PIPELINE_H

#include "bake_model/bake.h"
#include "bake_model/bake_source.h"
#include "base/progress.h"
#include "package/package_writer.h"

typedef struct ofr_bake_pipeline {
    const ofr_bake_options *options;
    const ofr_bake_source *source;
    ofr_package_writer *writer; /* opened with the model's tensors as its plan */
    ofr_progress *progress;     /* counts bytes of the source */
    unsigned threads;
    char (*ret_sha256)[OFR_SHA256_HEX_SIZE]; /* [files.n_files] of the files; "" for those that hold
                                                nothing that is needed */
    ofr_quantize_error *tensor_errors;       /* [n_tensors of the model] or NULL: added up */
    ofr_bake_result *result;                 /* n_tensors, n_resumed, errors: added up */
} ofr_bake_pipeline;

/* Bytes that the pipeline goes through. */
uint64_t ofr_bake_pipeline_bytes(const ofr_bake_source *source);
int ofr_bake_pipeline_run(const ofr_bake_pipeline *pipeline, ofr_error *err);

#endif
