/* Which tokens end generation, by the names that chat formats give them. */
#ifndef OFR_TOKENIZER_STOP_TOKENS_H
#define OFR_TOKENIZER_STOP_TOKENS_H

#include "tokenizer/tokenizer_build.h"

/* Finds the tokens of `vocab` that end a turn or a text: eos_id, eot_id and the known names.
 * types [n_tokens] (enum ofr_token_type) is corrected where a source marks such a token as ordinary
 * although its name leaves no doubt. ret_ids must have room for OFR_STOP_TOKENS_MAX; ascending,
 * without repetition. */
enum { OFR_STOP_TOKENS_MAX = 64 };
size_t ofr_stop_tokens_find(const ofr_vocab *vocab, uint8_t *types,
                            int32_t ret_ids[OFR_STOP_TOKENS_MAX]);

#endif
