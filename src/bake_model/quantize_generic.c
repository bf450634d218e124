/* The loops of quantization for any processor. */
#include "bake_model/quantize_loops.h"

static inline lanes quantize_max(lanes x, lanes y)
{
    masks below = x < y;
    return (lanes)(((masks)y & below) | ((masks)x & ~below));
}

static inline lanes quantize_min(lanes x, lanes y)
{
    masks above = x > y;
    return (lanes)(((masks)y & above) | ((masks)x & ~above));
}

const ofr_quantize_kernel *ofr_quantize_kernel_generic(void)
{
    return &table;
}
