/* Setting a kernel's arguments one after another. */
#ifndef OFR_BACKEND_OPENCL_OPENCL_ARGUMENTS_H
#define OFR_BACKEND_OPENCL_OPENCL_ARGUMENTS_H

#include "backend/opencl/opencl_session.h"

typedef struct arguments {
    ofr_backend_session *session;
    cl_kernel kernel;
    cl_uint n;
} arguments;

static inline void add(arguments *a, size_t size, const void *value)
{
    ofr_opencl_note(a->session, a->session->api->SetKernelArg(a->kernel, a->n++, size, value),
                    "setting a kernel's arguments");
}

static inline void add_buffer(arguments *a, cl_mem buffer)
{
    add(a, sizeof buffer, &buffer);
}

static inline void add_u32(arguments *a, uint32_t value)
{
    add(a, sizeof value, &value);
}

static inline void add_u64(arguments *a, uint64_t value)
{
    add(a, sizeof value, &value);
}

static inline void add_f32(arguments *a, float value)
{
    add(a, sizeof value, &value);
}

/* A kernel of a program, without arguments yet; kernel NULL after a failure. */
static inline arguments start(ofr_backend_session *session, uint32_t program, const char *name)
{
    cl_int status = CL_SUCCESS;
    arguments a = {.session = session};
    a.kernel = session->api->CreateKernel(session->programs[program], name, &status);
    ofr_opencl_note(session, status, name);
    if (status != CL_SUCCESS) {
        a.kernel = NULL;
    }
    return a;
}

#endif
