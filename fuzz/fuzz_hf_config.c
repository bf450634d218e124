/* Fuzz target of config.json: what is accepted are parameters that the engine accepts, too. */
#include <stdint.h>
#include <stdlib.h>

#include "bake_model/hf_config.h"
#include "package/package_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ofr_hf_config config = {0};
    ofr_error err;
    if (ofr_hf_config_parse(&config, "fuzz", (const char *)data, size, 0, &err) == 0) {
        const ofr_model_params *p = &config.params;
        if (ofr_package_check_params("fuzz", p, &err) == 0 &&
            (p->n_layers == 0 || p->head_dim == 0 || p->n_heads % p->n_kv_heads != 0))
            abort();
        for (uint32_t i = 0; config.long_factors && i < p->rope.dims / 2; i++)
            if (!(config.long_factors[i] > 0) || !(config.short_factors[i] > 0))
                abort();
    }
    ofr_hf_config_done(&config);
    return 0;
}
