/* Canaries: signs that a device computes something else than the model. */
#ifndef OFR_EXECUTIVE_SHARD_CANARY_H
#define OFR_EXECUTIVE_SHARD_CANARY_H

#include "engine/backend.h"
#include "package/package.h"

/* Every value is finite. A sum would do on exact arithmetic; this looks at each exponent and costs
 * a few microseconds for a row of 50,000 logits. */
bool ofr_canary_finite(const float *values, size_t n);

/* Greedy decoding of the package's golden prompt in slot 0, with the expected tokens fed back: each
 * must have the highest logit, or one within 0.5 of it (other orders of summation may swap near
 * ties). OFR_EDEVICE says at which token it went wrong; 0 without a golden prompt. The strips of
 * slot 0 are overwritten. */
int ofr_canary_golden(const ofr_backend *backend, ofr_backend_session *session,
                      const ofr_golden *golden, uint32_t vocab_size, uint32_t chunk_max,
                      ofr_error *err);

#endif
