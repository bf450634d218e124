/* A loader between the backend and the real one, for tests: it alters the sources of programs and
 * asks the test what devices say. One at a time. */
#ifndef OFR_TESTS_SUPPORT_OPENCL_LOADER_H
#define OFR_TESTS_SUPPORT_OPENCL_LOADER_H

#include "support/opencl_rig.h"

static struct {
    ofr_opencl_api real;
    const char *find, *replace; /* in sources, of one length; NULL: nothing */
    uint32_t replaced;          /* sources */
} opencl_loader;

static cl_program altered_source(cl_context context, cl_uint n, const char **texts,
                                 const size_t *lengths, cl_int *status)
{
    char *copies[OFR_OPENCL_SOURCES_MAX];
    assert_true(n <= OFR_OPENCL_SOURCES_MAX);
    for (cl_uint i = 0; i < n; i++) {
        copies[i] =
            lengths != NULL && lengths[i] > 0 ? strndup(texts[i], lengths[i]) : strdup(texts[i]);
        char *at = strstr(copies[i], opencl_loader.find);
        assert_int_equal(strlen(opencl_loader.find), strlen(opencl_loader.replace));
        if (at != NULL) {
            memcpy(at, opencl_loader.replace, strlen(opencl_loader.replace));
            opencl_loader.replaced++;
        }
    }
    cl_program program =
        opencl_loader.real.CreateProgramWithSource(context, n, (const char **)copies, NULL, status);
    for (cl_uint i = 0; i < n; i++) {
        free(copies[i]);
    }
    return program;
}

typedef cl_int opencl_device_info(cl_device_id id, cl_device_info what, size_t size, void *value,
                                  size_t *ret_size);

static const ofr_opencl_api *opencl_loader_open(const char *find, const char *replace,
                                                opencl_device_info *device_info)
{
    static ofr_opencl_api api; /* sessions borrow it */
    ofr_error err = {0};
    memset(&opencl_loader, 0, sizeof opencl_loader);
    rig_check(ofr_opencl_api_open(NULL, &opencl_loader.real, &err), &err);
    opencl_loader.find = find;
    opencl_loader.replace = replace;
    api = opencl_loader.real;
    api.GetDeviceInfo = device_info;
    if (find != NULL) {
        api.CreateProgramWithSource = altered_source;
    }
    return &api;
}

#endif
