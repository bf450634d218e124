/* A GGUF file as the source of a bake. */
#ifndef OFR_BAKE_MODEL_GGUF_SOURCE_H
#define OFR_BAKE_MODEL_GGUF_SOURCE_H

#include "bake_model/bake.h"
#include "bake_model/bake_source.h"

/* Fills a zeroed source from the only file in `source->files`, local or not. */
int ofr_gguf_source_load(const ofr_bake_options *options, ofr_bake_source *source, ofr_error *err);

#endif
