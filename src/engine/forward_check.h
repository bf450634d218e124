/* What every backend checks before it works: its options and each forward call. A backend that
 * called these may index strips, tables and buffers without looking again. `backend` is the name
 * that error texts begin with ("CPU backend"). Pure functions, any thread. */
#ifndef OFR_ENGINE_FORWARD_CHECK_H
#define OFR_ENGINE_FORWARD_CHECK_H

#include "engine/backend.h"

/* Layer range, KV layout against the model, arena, batch size. */
int ofr_backend_options_check(const ofr_backend_options *options, const char *backend,
                              ofr_error *err);

/* Segments, tokens, targets and buffers of one call; `chooses_candidates` as in the backend's
 * capabilities. `slot_used` is scratch of kv_layout.n_slots
 * bytes; *ret_tokens is the sum of the segments' tokens, 1 to max_batch_tokens. */
int ofr_forward_check(const ofr_backend_options *options, const ofr_forward *forward,
                      const char *backend, bool chooses_candidates, uint8_t *slot_used,
                      uint32_t *ret_tokens, ofr_error *err);

#endif
