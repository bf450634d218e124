/* The executive's status as JSON, and what clients are told of the plan's workers. */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "base/shm.h"
#include "executive_shard/executive_internal.h"

static const char *state_name(const ofr_executive_worker *worker, const ofr_board *board)
{
    if (worker->refused)
        return "quarantined";
    if (worker->pid == 0)
        return "stopped";
    if (worker->state == OFR_WORKER_STATE_TESTING)
        return "testing";
    if (worker->state != OFR_WORKER_STATE_READY)
        return "starting";
    return atomic_load(&board->state) == OFR_BOARD_STATE_BUSY ? "busy" : "idle";
}

static json_t *ranges_of(const ofr_executive_worker *worker)
{
    json_t *ranges = json_array();
    for (uint32_t i = 0; i < worker->n_ranges; i++)
        json_array_append_new(
            ranges, json_pack("[i, i]", (int)worker->ranges[i][0], (int)worker->ranges[i][1]));
    return ranges;
}

/* Adds to the sums what the worker holds and has copied. */
static json_t *worker_object(const ofr_executive_worker *worker, uint64_t *resident,
                             uint64_t *copied, uint64_t *graph_kv)
{
    ofr_board board = {0};
    if (!ofr_executive_read_board(worker, &board))
        board = (ofr_board){0};
    uint64_t held = worker->pid > 0 ? ofr_process_resident_bytes(worker->pid) : 0;
    uint64_t moved = worker->copied_before + atomic_load(&board.handoff_bytes_copied);
    uint64_t converted = worker->graph_kv_before + atomic_load(&board.graph_kv_bytes);
    *resident += held;
    *copied += moved;
    *graph_kv += converted;
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:o, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:I}",
        "name", worker->device, "device", worker->text, "state", state_name(worker, &board),
        "failure", worker->failure, "needed", (int)worker->needed, "layers", ranges_of(worker),
        "pid", (int)worker->pid, "generation", (int)worker->generation, "restarts",
        (int)worker->restarts, "resident_bytes", (json_int_t)held, "jobs",
        (json_int_t)atomic_load(&board.jobs), "progress", (json_int_t)atomic_load(&board.progress),
        "decode_tokens", (json_int_t)atomic_load(&board.decode_tokens), "tokens",
        (json_int_t)atomic_load(&board.tokens), "busy_ns", (json_int_t)atomic_load(&board.busy_ns),
        "heartbeat_ns", (json_int_t)atomic_load(&board.heartbeat_ns), "handoff_bytes_copied",
        (json_int_t)moved, "graph_kv_bytes", (json_int_t)converted, "logit_rows",
        (json_int_t)atomic_load(&board.logit_rows), "candidate_rows",
        (json_int_t)atomic_load(&board.candidate_rows));
}

json_t *ofr_executive_status(const ofr_executive *x)
{
    uint64_t resident = ofr_process_resident_bytes(getpid());
    uint64_t copied = 0;
    uint64_t graph_kv = 0;
    json_t *workers = json_array();
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++)
        if (x->workers[i].device[0])
            json_array_append_new(workers,
                                  worker_object(&x->workers[i], &resident, &copied, &graph_kv));
    const ofr_executive_client *client = x->attached ? x->attached : x->pending;
    json_t *holder =
        client ? json_pack("{s:s, s:i}", "program", client->program, "pid", (int)client->pid)
               : json_null();
    json_t *status = json_pack(
        "{s:s, s:b, s:s, s:i, s:s, s:s, s:s, s:s, s:o, s:I, s:i, s:i, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:o, s:o}",
        "op", "status", "ok", 1, "instance", x->options->instance, "pid", (int)getpid(), "package",
        x->package_directory, "fingerprint", x->fingerprint, "model", x->model_name, "plan",
        x->plan_text, "health", ofr_health_to_json(&x->monitor.health, &x->monitor.conditions),
        "uptime_ms", (json_int_t)((ofr_clock_ns() - x->started_ns) / 1000000), "n_slots",
        (int)x->kv_layout.n_slots, "context", (int)x->kv_layout.context, "kv_bytes",
        (json_int_t)x->kv_layout.total_bytes, "kv_committed_bytes",
        (json_int_t)(x->kv_fd >= 0 ? ofr_shm_committed(x->kv_fd) : 0), "weight_bytes",
        (json_int_t)x->weight_bytes, "resident_bytes", (json_int_t)resident, "handoff_bytes_copied",
        (json_int_t)copied, "graph_kv_bytes", (json_int_t)graph_kv, "client", holder, "workers",
        workers);
    if (x->options->plan) /* what clients get that name none */
        json_object_set_new(status, "plan_given", json_string(x->options->plan));
    if (x->options->threads) /* otherwise the backend's default, which its device's name says */
        json_object_set_new(status, "threads", json_integer(x->options->threads));
    return status;
}

json_t *ofr_executive_table(const ofr_executive *x)
{
    json_t *table = json_array();
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX; i++) {
        const ofr_executive_worker *worker = &x->workers[i];
        if (worker->needed)
            json_array_append_new(table,
                                  json_pack("{s:s, s:s, s:i}", "name", worker->device, "device",
                                            worker->text, "chunk", (int)worker->chunk));
    }
    return table;
}

void ofr_executive_devices(const ofr_executive *x, char *ret_text, size_t size)
{
    size_t used = 0;
    ret_text[0] = 0;
    for (size_t i = 0; i < OFR_EXECUTIVE_WORKERS_MAX && used < size; i++)
        if (x->workers[i].needed)
            used += (size_t)snprintf(ret_text + used, size - used, "%s%s", used ? "; " : "",
                                     x->workers[i].text);
}
