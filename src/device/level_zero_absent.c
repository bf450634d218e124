/* A build without Level Zero's headers. */
#include "device/level_zero.h"

int ofr_level_zero_open(ofr_stage_function *stage, void *user, ofr_level_zero **ret_level_zero,
                        ofr_error *err)
{
    (void)stage;
    (void)user;
    *ret_level_zero = NULL;
    return ofr_fail(err, OFR_ENOENT, "this build has no Level Zero");
}

ofr_level_zero *ofr_level_zero_close(ofr_level_zero *level_zero)
{
    (void)level_zero;
    return NULL;
}

const char *ofr_level_zero_version(const ofr_level_zero *level_zero)
{
    (void)level_zero;
    return "";
}

size_t ofr_level_zero_count(const ofr_level_zero *level_zero)
{
    (void)level_zero;
    return 0;
}

const ofr_device *ofr_level_zero_device(const ofr_level_zero *level_zero, size_t index)
{
    (void)level_zero;
    (void)index;
    return NULL;
}

void ofr_level_zero_sample(ofr_level_zero *level_zero, size_t index, ofr_device_sample *sample)
{
    (void)level_zero;
    (void)index;
    (void)sample;
}
