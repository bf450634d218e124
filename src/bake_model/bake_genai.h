/* What OpenVINO GenAI reads beside openvino_model.xml: config.json, generation_config.json, and the
 * tokenizer as graphs, openvino_tokenizer.xml and openvino_detokenizer.xml, each with its .bin. */
#ifndef OFR_BAKE_MODEL_BAKE_GENAI_H
#define OFR_BAKE_MODEL_BAKE_GENAI_H

#include "bake_model/bake.h"
#include "bake_model/bake_source.h"
#include "package/package_writer.h"

/* A vocabulary that the graphs cannot express gets none: `result` says why. */
int ofr_bake_genai(ofr_package_writer *writer, const ofr_bake_source *source,
                   ofr_bake_result *result, ofr_error *err);

#endif
