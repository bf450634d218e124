/* A repository of the hub as the source of a bake. */
#ifndef OFR_BAKE_MODEL_HUB_SOURCE_H
#define OFR_BAKE_MODEL_HUB_SOURCE_H

#include "bake_model/hub.h"

/* Fills a zeroed source from safetensors, or from a GGUF: options->gguf, a path in the repository,
 * or the only one there. The hub must stay open while the source is used. With options->keep_source
 * the files are put there first and read from there. */
int ofr_hub_source_load(const ofr_bake_options *options, ofr_hub *hub, ofr_bake_source *source,
                        ofr_error *err);

#endif
