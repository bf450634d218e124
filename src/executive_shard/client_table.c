/* The plan's workers as a client knows them, and the routes of its jobs. */
#include <string.h>

#include "executive_shard/client_internal.h"
#include "executive_shard/control.h"

/* Pieces of a prompt that goes through several devices: small enough that they overlap. */
enum { PIPELINE_CHUNK = 256 };

int ofr_client_table_read(ofr_client_table *ret_table, const json_t *session, uint32_t chunk_max,
                          ofr_error *err)
{
    ofr_client_table table = {0};
    char plan[sizeof((ofr_client_info *)NULL)->plan];
    const json_t *workers = json_object_get(session, "workers");
    table.n_workers = (uint32_t)json_array_size(workers);
    if (table.n_workers == 0 || table.n_workers > OFR_SESSION_WORKERS_MAX)
        return ofr_fail(err, OFR_EPROTOCOL, "the executive names %u workers", table.n_workers);
    ofr_plan_device devices[OFR_SESSION_WORKERS_MAX];
    int r = ofr_control_get_u32(session, "n_layers", &table.n_layers, err);
    for (uint32_t i = 0; i < table.n_workers && r == 0; i++) {
        const json_t *worker = json_array_get(workers, i);
        r = ofr_control_get_text(worker, "name", table.workers[i].name,
                                 sizeof table.workers[i].name, err);
        if (r == 0)
            r = ofr_control_get_u32(worker, "chunk", &table.workers[i].chunk, err);
        if (table.workers[i].chunk == 0 || table.workers[i].chunk > chunk_max)
            table.workers[i].chunk = chunk_max;
        devices[i] = (ofr_plan_device){table.workers[i].name, OFR_PLAN_DEVICE_CPU};
    }
    if (r == 0)
        r = ofr_control_get_text(session, "plan", plan, sizeof plan, err);
    if (r == 0)
        r = ofr_plan_parse(plan, &table.plan, err);
    if (r == 0)
        r = ofr_plan_resolve(&table.plan, devices, table.n_workers, table.n_layers, err);
    const ofr_plan_phase *phase = NULL;
    for (uint32_t k = 0; r == 0 && (phase = ofr_plan_phase_at(&table.plan, k)) != NULL; k++)
        if (phase->n_stages == 0)
            r = ofr_fail(err, OFR_EPROTOCOL, "the executive's plan '%s' is not complete", plan);
    if (r == 0)
        *ret_table = table;
    return r;
}

static uint32_t find_worker(const ofr_client_table *table, const char *name)
{
    uint32_t i = 0;
    while (i + 1 < table->n_workers && strcmp(table->workers[i].name, name) != 0)
        i++;
    return i; /* resolving has made sure that it is there */
}

void ofr_client_table_route(const ofr_client_table *table, uint32_t prompt_tokens,
                            ofr_client_route *ret_route)
{
    const ofr_plan_phase *phase = prompt_tokens ? ofr_plan_prefill(&table->plan, prompt_tokens)
                                                : &table->plan.phases[OFR_PLAN_PHASE_DECODE];
    ofr_client_route route = {.n_stages = phase->n_stages, .chunk = UINT32_MAX};
    bool several = false;
    for (uint32_t i = 0; i < phase->n_stages; i++) {
        const ofr_plan_stage *stage = &phase->stages[i];
        uint32_t worker = find_worker(table, stage->device);
        route.stages[i].worker = worker;
        route.stages[i].layer_begin = stage->layer_begin;
        route.stages[i].layer_end = stage->layer_end;
        /* A graph's input and output must differ; from two layers on its own buffer is between. */
        route.stages[i].in_place = stage->layer_end - stage->layer_begin > 1 ||
                                   strncmp(stage->device, "openvino:", strlen("openvino:")) != 0;
        several = several || worker != route.stages[0].worker;
        if (table->workers[worker].chunk < route.chunk)
            route.chunk = table->workers[worker].chunk;
    }
    if (several && route.chunk > PIPELINE_CHUNK)
        route.chunk = PIPELINE_CHUNK;
    *ret_route = route;
}
