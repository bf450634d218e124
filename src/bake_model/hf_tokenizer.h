/* Tokenizer and chat template of a model of the hub. */
#ifndef OFR_BAKE_MODEL_HF_TOKENIZER_H
#define OFR_BAKE_MODEL_HF_TOKENIZER_H

#include "bake_model/hf_source.h"

/* Sets tokenizer, n_vocab and chat_template of the source, from tokenizer.json or tokenizer.model,
 * tokenizer_config.json, generation_config.json, config.json and chat_template.jinja. */
int ofr_hf_tokenizer_load(const ofr_hf_files *files, ofr_bake_source *source, ofr_error *err);

#endif
