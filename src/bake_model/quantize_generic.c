/* The loops of quantization for any processor. */
#define QUANTIZE_SETS 1
#include "bake_model/quantize_loops.h"

static inline wide quantize_max(wide x, float limit)
{
    masks below = x < limit;
    return (wide)(((masks)((lanes){0} + limit) & below) | ((masks)x & ~below));
}

static inline wide quantize_min(wide x, float limit)
{
    masks above = x > limit;
    return (wide)(((masks)((lanes){0} + limit) & above) | ((masks)x & ~above));
}

static inline wide quantize_spread(const float *eight)
{
    return load(eight);
}

const ofr_quantize_kernel *ofr_quantize_kernel_generic(void)
{
    return &table;
}
