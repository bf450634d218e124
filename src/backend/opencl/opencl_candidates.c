/* Candidates: the best logits of a row, chosen where they were computed. */
#include "backend/opencl/opencl_session.h"

enum { CHOOSE_ITEMS = 64 };

/* Indices of the arguments of the kernel top_k. */
enum {
    ARGUMENT_LOGITS,
    ARGUMENT_ENTRIES,
    ARGUMENT_FROM_ENTRIES,
    ARGUMENT_COUNT,
    ARGUMENT_K,
    ARGUMENT_CHOSEN,
    ARGUMENT_NOT_FINITE,
};

static void set(ofr_backend_session *session, cl_kernel kernel, cl_uint index, size_t bytes,
                const void *value)
{
    if (kernel != NULL) {
        ofr_opencl_note(session, session->api->SetKernelArg(kernel, index, bytes, value),
                        "setting a kernel's arguments");
    }
}

void ofr_opencl_choose(ofr_backend_session *session, uint32_t rows, uint32_t k, ofr_candidate *ret)
{
    cl_kernel kernel = ofr_opencl_model_step(session, OPENCL_MODEL_STEP_TOP_K);
    uint32_t count = session->params->vocab_size, chunks = 2, pass = 0;
    set(session, kernel, ARGUMENT_LOGITS, sizeof(cl_mem), &session->logits);
    set(session, kernel, ARGUMENT_K, sizeof k, &k);
    set(session, kernel, ARGUMENT_NOT_FINITE, sizeof(cl_mem), &session->not_finite);
    for (; chunks > 1; pass++) { /* until one chunk has seen all that is left of a row */
        uint32_t from_entries = pass > 0;
        chunks = (count + OPENCL_TOP_CHUNK - 1) / OPENCL_TOP_CHUNK;
        set(session, kernel, ARGUMENT_ENTRIES, sizeof(cl_mem), &session->chosen[(pass + 1) % 2]);
        set(session, kernel, ARGUMENT_FROM_ENTRIES, sizeof from_entries, &from_entries);
        set(session, kernel, ARGUMENT_COUNT, sizeof count, &count);
        set(session, kernel, ARGUMENT_CHOSEN, sizeof(cl_mem), &session->chosen[pass % 2]);
        ofr_opencl_launch(session, kernel, CHOOSE_ITEMS, chunks, rows, 1);
        count = chunks * k;
    }
    ofr_opencl_fetch(session, session->chosen[(pass - 1) % 2], (size_t)rows * k * sizeof *ret, ret);
}

void ofr_opencl_fetch_not_finite(ofr_backend_session *session)
{
    ofr_opencl_fetch(session, session->not_finite, sizeof session->found_not_finite,
                     &session->found_not_finite);
}

bool ofr_opencl_take_finite(ofr_backend_session *session)
{
    bool finite = session->found_not_finite == 0;
    if (!finite) { /* for the next call; seldom enough to be sent only then */
        ofr_opencl_clear(session, session->not_finite, sizeof session->found_not_finite);
        session->found_not_finite = 0;
    }
    return finite;
}
