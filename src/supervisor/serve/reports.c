/* Models, tokens and figures. */
#include "supervisor/serve/reports.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/process.h"
#include "engine/plan.h"

int ofr_report_check_model(const ofr_service *service, const char *model, ofr_api_error *err)
{
    if (!model || !*model || strcmp(model, service->model_id) == 0)
        return 0;
    return ofr_api_fail_as(err, 404, "invalid_request_error", "model_not_found",
                           "the model '%.100s' is not here; this server has '%.100s'", model,
                           service->model_id);
}

static void print_model(const ofr_service *service, ofr_text *out)
{
    ofr_text_print(out, "{\"id\":");
    ofr_text_add_json_string(out, service->model_id);
    ofr_text_print(out,
                   ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"local\","
                   "\"max_model_len\":%u}",
                   (long long)service->created, service->context);
}

void ofr_report_models(const ofr_service *service, bool list, ofr_text *out)
{
    if (list)
        ofr_text_print(out, "{\"object\":\"list\",\"data\":[");
    print_model(service, out);
    if (list)
        ofr_text_print(out, "]}");
}

static int encode(const ofr_service *service, const ofr_api_request *request, int32_t **ret_ids,
                  size_t *ret_count, ofr_error *err)
{
    const ofr_engine_session *session = service->session;
    if (request->messages)
        return ofr_engine_session_render(session, request->messages, ret_ids, ret_count, err);
    unsigned flags = OFR_TOKENIZE_PARSE_SPECIAL;
    if (request->add_special)
        flags |= OFR_TOKENIZE_ADD_BOS_EOS;
    return ofr_tokenizer_encode(session->tokenizer, request->prompts[0].text,
                                request->prompts[0].size, flags, ret_ids, ret_count, err);
}

int ofr_report_tokenize(const ofr_service *service, const ofr_api_request *request, ofr_text *out,
                        ofr_api_error *err)
{
    int32_t *ids = NULL;
    size_t n = 0;
    ofr_error reason = {0};
    int r = encode(service, request, &ids, &n, &reason);
    if (r < 0)
        return ofr_api_fail_from(err, &reason);
    ofr_text_print(out, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", n, service->context);
    for (size_t i = 0; i < n; i++)
        ofr_text_print(out, "%s%d", i ? "," : "", ids[i]);
    ofr_text_print(out, "]");
    for (size_t i = 0; request->with_pieces && i < n; i++) {
        size_t size = 0;
        const char *piece = ofr_tokenizer_token_text(service->session->tokenizer, ids[i], &size);
        ofr_text_print(out, "%s", i ? "," : ",\"token_strs\":[");
        ofr_text_add_json(out, piece ? piece : "", piece ? size : 0);
    }
    ofr_text_print(out, request->with_pieces && n ? "]}" : "}");
    free(ids);
    return 0;
}

int ofr_report_detokenize(const ofr_service *service, const ofr_api_request *request, ofr_text *out,
                          ofr_api_error *err)
{
    ofr_detokenizer *detokenizer = NULL;
    ofr_error reason = {0};
    ofr_text text = {0};
    const char *piece = NULL;
    size_t size = 0, i;
    const json_t *id;
    int r = ofr_detokenizer_new(service->session->tokenizer, OFR_DETOKENIZE_SPECIAL, &detokenizer,
                                &reason);
    const json_t *ids = r == 0 ? request->prompts[0].ids : NULL;
    json_array_foreach(ids, i, id)
    {
        if (r == 0)
            r = ofr_detokenizer_push(detokenizer, (int32_t)json_integer_value(id), &piece, &size,
                                     &reason);
        if (r == 0)
            ofr_text_add(&text, piece, size);
    }
    if (r == 0)
        r = ofr_detokenizer_finish(detokenizer, &piece, &size, &reason);
    if (r == 0) {
        ofr_text_add(&text, piece, size);
        ofr_text_print(out, "{\"prompt\":");
        ofr_text_add_json(out, text.data ? text.data : "", text.size);
        ofr_text_print(out, "}");
    }
    ofr_text_done(&text);
    ofr_detokenizer_free(detokenizer);
    return r < 0 ? ofr_api_fail_from(err, &reason) : 0;
}

/* The executive's own figures, or NULL where it does not answer. */
static json_t *executive_status(const ofr_service *service)
{
    char *text = NULL;
    if (ofr_client_instance_status(service->instance, &text, NULL) < 0)
        return NULL;
    json_t *status = json_loads(text, 0, NULL);
    free(text);
    return status;
}

static double number(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

typedef struct labelled_figure {
    const char *key, *name, *type, *help;
} labelled_figure;

/* A figure of each object of the list, where it is a number. */
static void print_labelled(ofr_text *out, const json_t *list, const char *label,
                           const labelled_figure *figures, size_t n)
{
    for (size_t f = 0; f < n; f++) {
        size_t i;
        const json_t *object;
        bool headed = false;
        json_array_foreach(list, i, object)
        {
            const char *name = json_string_value(json_object_get(object, "name"));
            if (!json_is_number(json_object_get(object, figures[f].key)))
                continue;
            if (!headed)
                ofr_text_print(out, "# HELP %s %s\n# TYPE %s %s\n", figures[f].name,
                               figures[f].help, figures[f].name, figures[f].type);
            headed = true;
            ofr_text_print(out, "%s{%s=", figures[f].name, label);
            ofr_text_add_json_string(out, name ? name : "");
            ofr_text_print(out, "} %.15g\n", number(object, figures[f].key));
        }
    }
}

static void print_devices(ofr_text *out, const json_t *status)
{
    static const labelled_figure workers[] = {
        {"restarts", "offering_worker_restarts_total", "counter", "Workers started again."},
        {"tokens", "offering_worker_tokens_total", "counter", "Tokens forwarded by this worker."},
        {"busy_ns", "offering_worker_busy_nanoseconds_total", "counter",
         "Time inside the backend."},
        {"resident_bytes", "offering_worker_resident_bytes", "gauge", "Resident memory."},
    };
    /* Only what the machine tells. */
    static const labelled_figure devices[] = {
        {"energy_j", "offering_device_energy_joules_total", "counter", "Energy of the device."},
        {"power_w", "offering_device_power_watts", "gauge", "Power of the device."},
        {"temperature_c", "offering_device_temperature_celsius", "gauge", "Temperature."},
        {"utilisation", "offering_device_utilisation_ratio", "gauge", "Utilisation."},
        {"frequency_mhz", "offering_device_frequency_megahertz", "gauge", "Clock."},
    };
    const json_t *health = json_object_get(status, "health");
    print_labelled(out, json_object_get(status, "workers"), "worker", workers,
                   sizeof workers / sizeof workers[0]);
    print_labelled(out, json_object_get(health, "devices"), "device", devices,
                   sizeof devices / sizeof devices[0]);
    if (json_is_number(json_object_get(health, "energy_per_token_j")))
        ofr_metrics_value(out, "offering_energy_per_token_joules", "gauge",
                          "Energy of a decoded token.", "", number(health, "energy_per_token_j"));
}

static double count(const _Atomic uint64_t *counter)
{
    return (double)atomic_load(counter);
}

static void print_batch(ofr_text *out, const ofr_service *service)
{
    const ofr_batch_counters *c = ofr_batch_get_counters(service->batch);
#define COUNTER(name, help, value) ofr_metrics_value(out, name, "counter", help, "", value)
#define GAUGE(name, help, value)   ofr_metrics_value(out, name, "gauge", help, "", value)
    COUNTER("offering_prompt_tokens_total", "Tokens of prompts.", count(&c->prompt_tokens));
    COUNTER("offering_prompt_tokens_reused_total", "Of those, found in the KV cache.",
            count(&c->reused_tokens));
    COUNTER("offering_prompt_tokens_copied_total", "Of those, copied from another slot.",
            count(&c->copied_tokens));
    COUNTER("offering_prefill_tokens_total", "Tokens forwarded in prefill.",
            count(&c->prefill_tokens));
    COUNTER("offering_generated_tokens_total", "Tokens generated.", count(&c->generated_tokens));
    COUNTER("offering_prefill_seconds_total", "Time in prefill jobs.", count(&c->prefill_ns) / 1e9);
    COUNTER("offering_decode_seconds_total", "Time in decode jobs.", count(&c->decode_ns) / 1e9);
    COUNTER("offering_decode_jobs_total", "Decode jobs, each one token of every running answer.",
            count(&c->decode_jobs));
    COUNTER("offering_decode_jobs_overlapped_total",
            "Of those, ended while a prompt was on its way on another device.",
            count(&c->overlapped_jobs));
    COUNTER("offering_worker_losses_total", "Workers lost under running answers.",
            atomic_load(&c->worker_losses));
    COUNTER("offering_executive_losses_total", "Executives lost under running answers.",
            atomic_load(&c->executive_losses));
    GAUGE("offering_sequences_running", "Answers being generated.", atomic_load(&c->running));
    GAUGE("offering_sequences_prefilling", "Of those, still in prefill.",
          atomic_load(&c->prefilling));
    GAUGE("offering_sequences_waiting", "Answers that wait for a slot.", atomic_load(&c->waiting));
    GAUGE("offering_slots", "Sequences that can run at once.", service->n_slots);
    GAUGE("offering_kv_tokens_used", "Rows of KV that running answers hold.", count(&c->kv_tokens));
    GAUGE("offering_kv_tokens_capacity", "Rows of KV of all slots.",
          (double)service->n_slots * service->context);
#undef COUNTER
#undef GAUGE
}

static void print_stages(ofr_text *out, const char *name, uint32_t min_tokens,
                         const ofr_plan_phase *phase)
{
    for (uint32_t i = 0; i < phase->n_stages; i++) {
        const ofr_plan_stage *stage = &phase->stages[i];
        ofr_text_print(out, "offering_phase_device{phase=\"%s\",min_tokens=\"%u\",device=", name,
                       min_tokens);
        ofr_text_add_json_string(out, stage->device);
        ofr_text_print(out, ",layers=\"%u-", stage->layer_begin);
        if (stage->layer_end != OFR_PLAN_TO_LAST_LAYER)
            ofr_text_print(out, "%u", stage->layer_end);
        ofr_text_print(out, "\"} 1\n");
    }
}

/* Which device does which phase and layers. */
static void print_phases(ofr_text *out, const char *text)
{
    ofr_plan plan;
    ofr_error ignored;
    if (ofr_plan_parse(text, &plan, &ignored) < 0)
        return;
    ofr_text_print(out, "# HELP offering_phase_device Devices by phase, prompt length and layers.\n"
                        "# TYPE offering_phase_device gauge\n");
    print_stages(out, "prefill", 0, &plan.phases[OFR_PLAN_PHASE_PREFILL]);
    for (uint32_t i = 0; i < plan.n_longer; i++)
        print_stages(out, "prefill", plan.longer[i].min_tokens, &plan.longer[i].prefill);
    print_stages(out, "decode", 0, &plan.phases[OFR_PLAN_PHASE_DECODE]);
}

void ofr_report_metrics(ofr_service *service, ofr_text *out)
{
    const ofr_metrics *m = &service->metrics;
    ofr_plan_shown shown;
    ofr_service_get_plan(&service->plan, &shown);
    ofr_metrics_requests(out, m);
    ofr_histogram_print(out, "offering_time_to_first_token_seconds",
                        "From the arrival of a request to its first token.", &m->first_token);
    ofr_histogram_print(out, "offering_inter_token_seconds", "Between two tokens of an answer.",
                        &m->inter_token);
    ofr_histogram_print(out, "offering_queue_seconds", "Until a slot was free.", &m->queued);
    ofr_histogram_print(out, "offering_request_seconds", "Whole answers.", &m->request);
    print_batch(out, service);
    ofr_metrics_value(out, "offering_connections", "gauge", "Open connections.", "",
                      count(&m->connections));
    ofr_text_print(out,
                   "# HELP offering_info What runs where.\n# TYPE offering_info gauge\n"
                   "offering_info{version=\"%s\",model=",
                   OFR_VERSION);
    ofr_text_add_json_string(out, service->model_id);
    ofr_text_print(out, ",plan=");
    ofr_text_add_json_string(out, shown.plan);
    ofr_text_print(out, ",device=");
    ofr_text_add_json_string(out, shown.device);
    ofr_text_print(out, "} 1\n");
    print_phases(out, shown.plan);
    ofr_metrics_value(out, "offering_plan_changes_total", "counter",
                      "Changes of the plan since the start.", "", (double)shown.changes);
    json_t *status = executive_status(service);
    ofr_metrics_value(out, "offering_executive_up", "gauge", "Whether the executive answers.", "",
                      status ? 1 : 0);
    if (status) {
        ofr_metrics_value(out, "offering_handoff_bytes_copied_total", "counter",
                          "Bytes of KV and hidden states that were copied.", "",
                          number(status, "handoff_bytes_copied"));
        ofr_metrics_value(out, "offering_kv_committed_bytes", "gauge",
                          "Memory that KV strips occupy.", "",
                          number(status, "kv_committed_bytes"));
        ofr_metrics_value(out, "offering_resident_bytes", "gauge",
                          "Resident memory of executive and workers.", "",
                          number(status, "resident_bytes"));
        print_devices(out, status);
    }
    json_decref(status);
}

static void print_rates(ofr_text *out, const ofr_service *service)
{
    const ofr_batch_counters *c = ofr_batch_get_counters(service->batch);
    const ofr_metrics *m = &service->metrics;
    ofr_text_print(out,
                   "\"running\":%u,\"prefilling\":%u,\"waiting\":%u,\"generated_tokens\":%" PRIu64
                   ",\"prefill_tokens\":%" PRIu64 ",\"prompt_tokens\":%" PRIu64
                   ",\"reused_tokens\":%" PRIu64 ",\"decode_ns\":%" PRIu64
                   ",\"prefill_ns\":%" PRIu64 ",\"kv_tokens\":%" PRIu64 ",\"worker_losses\":%u,",
                   atomic_load(&c->running), atomic_load(&c->prefilling), atomic_load(&c->waiting),
                   atomic_load(&c->generated_tokens), atomic_load(&c->prefill_tokens),
                   atomic_load(&c->prompt_tokens), atomic_load(&c->reused_tokens),
                   atomic_load(&c->decode_ns), atomic_load(&c->prefill_ns),
                   atomic_load(&c->kv_tokens), atomic_load(&c->worker_losses));
    ofr_text_print(out,
                   "\"first_token_s\":{\"p50\":%.4g,\"p95\":%.4g},"
                   "\"inter_token_s\":{\"p50\":%.4g,\"p95\":%.4g},",
                   ofr_histogram_quantile(&m->first_token, 0.5),
                   ofr_histogram_quantile(&m->first_token, 0.95),
                   ofr_histogram_quantile(&m->inter_token, 0.5),
                   ofr_histogram_quantile(&m->inter_token, 0.95));
}

void ofr_report_status(ofr_service *service, ofr_text *out)
{
    ofr_batch_slot_status *slots = calloc(service->n_slots, sizeof *slots);
    uint64_t now = ofr_clock_ns();
    ofr_plan_shown shown;
    ofr_service_get_plan(&service->plan, &shown);
    ofr_text_print(out, "{\"model\":");
    ofr_text_add_json_string(out, service->model_id);
    ofr_text_print(out, ",\"device\":");
    ofr_text_add_json_string(out, shown.device);
    ofr_text_print(out, ",\"plan\":");
    ofr_text_add_json_string(out, shown.plan);
    ofr_text_print(out,
                   ",\"plan_changes\":%" PRIu64
                   ",\"version\":\"%s\",\"context\":%u,\"chat\":%s,\"now_ms\":%" PRIu64
                   ",\"uptime_ms\":%" PRIu64 ",\"resident_bytes\":%" PRIu64 ",",
                   shown.changes, OFR_VERSION, service->context,
                   service->session->chat_template ? "true" : "false", now / 1000000,
                   (now - service->metrics.started_ns) / 1000000,
                   ofr_process_resident_bytes(getpid()));
    print_rates(out, service);
    ofr_text_print(out, "\"slots\":[");
    if (slots)
        ofr_batch_slots(service->batch, slots);
    for (uint32_t i = 0; slots && i < service->n_slots; i++)
        ofr_text_print(out, "%s{\"state\":\"%s\",\"tokens\":%u}", i ? "," : "",
                       slots[i].state ? slots[i].state : "free", slots[i].n_tokens);
    free(slots);
    json_t *status = executive_status(service);
    char *text = status ? json_dumps(status, JSON_COMPACT) : NULL;
    ofr_text_print(out, "],\"executive\":%s}", text ? text : "null");
    free(text);
    json_decref(status);
}
