/* The small files that OpenVINO GenAI reads beside openvino_model.xml: config.json and
 * generation_config.json. Its tokenizer models are not written: documentation/openvino.md has the
 * command that makes them. */
#ifndef OFR_BAKE_MODEL_BAKE_GENAI_H
#define OFR_BAKE_MODEL_BAKE_GENAI_H

#include "bake_model/bake_source.h"
#include "package/package_writer.h"

int ofr_bake_genai_configs(ofr_package_writer *writer, const ofr_bake_source *source,
                           ofr_error *err);

#endif
