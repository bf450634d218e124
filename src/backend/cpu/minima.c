/* What weights with minima add to the products of their i4 part. */
#include "backend/cpu/kernels.h"

void ofr_cpu_group_sums(const float *x, uint32_t n_groups, float *ret_sums)
{
    for (uint32_t g = 0; g < n_groups; g++) {
        const float *group = x + (size_t)g * OFR_CPU_ACTIVATION_GROUP;
        float parts[8] = {0}; /* in lanes, so that it vectorizes */
        for (uint32_t i = 0; i < OFR_CPU_ACTIVATION_GROUP; i += 8) {
            for (uint32_t lane = 0; lane < 8; lane++) {
                parts[lane] += group[i + lane];
            }
        }
        ret_sums[g] = ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
                      ((parts[1] + parts[5]) + (parts[3] + parts[7]));
    }
}

void ofr_cpu_add_minima(const ofr_cpu_kernels *kernels, const ofr_tensor *weight, const float *sums,
                        uint32_t begin, uint32_t n, float *y)
{
    size_t groups = (size_t)weight->shape[1] / OFR_CPU_ACTIVATION_GROUP;
    const uint16_t *scales = (const uint16_t *)weight->scales + begin * groups;
    const uint16_t *minima = scales + (size_t)weight->shape[0] * groups;
    for (uint32_t i = 0; i < n; i++, scales += groups, minima += groups) {
        y[i] += 8 * kernels->dot_f16(sums, scales, groups) + kernels->dot_f16(sums, minima, groups);
    }
}
