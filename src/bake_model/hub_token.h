/* The hub's address and the user's token, from the environment. */
#ifndef OFR_BAKE_MODEL_HUB_TOKEN_H
#define OFR_BAKE_MODEL_HUB_TOKEN_H

#include "base/status.h"

/* Without a trailing slash; malloc'ed. */
int ofr_hub_endpoint(char **ret_endpoint, ofr_error *err);
/* malloc'ed; NULL where there is none. A token that cannot be one is refused; no error shows it. */
int ofr_hub_token(char **ret_token, ofr_error *err);

#endif
