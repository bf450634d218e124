/* The planner: the cost model of planner.h over all combinations, and the choice. */
#include "engine/planner.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORTEST_PROMPT = 16 };

struct planner {
    const ofr_planner_input *input;
    ofr_planner_decision *decision;
    uint32_t lengths[OFR_PLANNER_LENGTHS_MAX];
    uint32_t n_lengths;
    uint32_t answer;
};

/* What a decode route is combined with, length by length. */
struct choice {
    uint32_t prefill[OFR_PLANNER_LENGTHS_MAX];
    double mean; /* of total / least total, over the lengths */
};

double ofr_planner_interpolate(const ofr_planner_point *points, uint32_t n, double tokens)
{
    if (n == 0)
        return 0;
    if (n == 1 || tokens <= points[0].tokens)
        return points[0].ms;
    uint32_t i = 1;
    while (i + 1 < n && tokens > points[i].tokens)
        i++;
    const ofr_planner_point *a = &points[i - 1], *b = &points[i];
    double slope = (b->ms - a->ms) / ((double)b->tokens - (double)a->tokens);
    /* Noise may let the last line fall; nothing becomes faster the longer it is. */
    if (tokens > b->tokens && slope < 0)
        slope = 0;
    return tokens > b->tokens ? b->ms + slope * (tokens - b->tokens)
                              : a->ms + slope * (tokens - a->tokens);
}

/* A longer prompt than was measured is more of the same: its tokens cost at least what those of the
 * longest one did. The line through the last two points may be flat by noise, and then makes any
 * long prompt free. */
static double prefill_at(const ofr_planner_device *device, double tokens)
{
    double ms = ofr_planner_interpolate(device->prefill, device->n_prefill, tokens);
    if (device->n_prefill == 0)
        return ms;
    const ofr_planner_point *last = &device->prefill[device->n_prefill - 1];
    return tokens > last->tokens ? fmax(ms, last->ms * tokens / last->tokens) : ms;
}

static double slowdown(const ofr_planner_device *device)
{
    return device->slowdown > 1 ? device->slowdown : 1;
}

/* Part of the bytes that a token reads. */
static double decode_share(const ofr_planner_model *model, const ofr_plan_stage *stage)
{
    double layers = (double)model->layer_bytes * model->n_layers;
    double bytes = (double)model->layer_bytes * (stage->layer_end - stage->layer_begin);
    if (stage->layer_end == model->n_layers)
        bytes += (double)model->head_bytes;
    return layers > 0 ? bytes / (layers + (double)model->head_bytes)
                      : (double)(stage->layer_end - stage->layer_begin) / model->n_layers;
}

static double copy_ms(const ofr_planner_device *device, double bytes)
{
    return device->copy_gb_s > 0 ? bytes / (device->copy_gb_s * 1e6) : 0;
}

static double prefill_ms(const struct planner *p, const ofr_planner_route *route, double tokens)
{
    const ofr_planner_model *model = &p->input->model;
    double ms = 0;
    for (uint32_t i = 0; i < route->phase.n_stages; i++) {
        const ofr_plan_stage *stage = &route->phase.stages[i];
        const ofr_planner_device *device = &p->input->devices[route->devices[i]];
        double share = (double)(stage->layer_end - stage->layer_begin) / model->n_layers;
        ms += share * prefill_at(device, tokens) * slowdown(device);
        if (i > 0)
            ms += device->hop_us / 1e3 + copy_ms(device, tokens * (double)model->hidden_bytes);
    }
    return ms;
}

static double decode_ms(const struct planner *p, const ofr_planner_route *route, double depth)
{
    double ms = 0;
    for (uint32_t i = 0; i < route->phase.n_stages; i++) {
        const ofr_planner_device *device = &p->input->devices[route->devices[i]];
        ms += decode_share(&p->input->model, &route->phase.stages[i]) *
              ofr_planner_interpolate(device->decode, device->n_decode, depth) * slowdown(device);
        if (i > 0)
            ms += device->hop_us / 1e3;
    }
    return ms;
}

/* Layers of `stage` that `route` computes on the same device. */
static uint32_t layers_in_common(const ofr_planner_route *route, const ofr_plan_stage *stage)
{
    uint32_t common = 0;
    for (uint32_t i = 0; i < route->phase.n_stages; i++) {
        const ofr_plan_stage *other = &route->phase.stages[i];
        if (strcmp(other->device, stage->device) != 0)
            continue;
        uint32_t begin =
            other->layer_begin > stage->layer_begin ? other->layer_begin : stage->layer_begin;
        uint32_t end = other->layer_end < stage->layer_end ? other->layer_end : stage->layer_end;
        common += end > begin ? end - begin : 0;
    }
    return common;
}

static double handoff_ms(const struct planner *p, const ofr_planner_route *from,
                         const ofr_planner_route *to, double tokens)
{
    if (from == to)
        return 0;
    const ofr_planner_model *model = &p->input->model;
    double ms = p->input->devices[to->devices[0]].hop_us / 1e3;
    for (uint32_t i = 0; i < to->phase.n_stages; i++) {
        const ofr_plan_stage *stage = &to->phase.stages[i];
        uint32_t moved = stage->layer_end - stage->layer_begin - layers_in_common(from, stage);
        ms += copy_ms(&p->input->devices[to->devices[i]],
                      tokens * (double)model->kv_bytes * moved / model->n_layers);
    }
    return ms;
}

static ofr_planner_candidate predict(const struct planner *p, uint32_t prefill, uint32_t decode,
                                     uint32_t tokens)
{
    const ofr_planner_route *from = &p->decision->routes[prefill];
    const ofr_planner_route *to = &p->decision->routes[decode];
    ofr_planner_candidate c = {.prompt_tokens = tokens, .prefill = prefill, .decode = decode};
    c.first_token_ms = prefill_ms(p, from, tokens);
    c.handoff_ms = handoff_ms(p, from, to, tokens);
    c.per_token_ms = decode_ms(p, to, tokens + p->answer / 2.0);
    c.total_ms = c.first_token_ms + c.handoff_ms + p->answer * c.per_token_ms;
    return c;
}

static double total(const struct planner *p, uint32_t prefill, uint32_t decode, uint32_t tokens)
{
    return predict(p, prefill, decode, tokens).total_ms;
}

static bool points_are_good(const ofr_planner_point *points, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(points[i].ms) || points[i].ms <= 0 ||
            (i > 0 && points[i].tokens <= points[i - 1].tokens))
            return false;
    return n > 0 && n <= OFR_PLANNER_POINTS_MAX;
}

static int check_input(const ofr_planner_input *input, ofr_error *err)
{
    if (input->model.n_layers == 0 || input->n_devices > OFR_PLANNER_DEVICES_MAX)
        return ofr_fail(err, OFR_EINVAL, "planner: a model of %u layers, %u devices",
                        input->model.n_layers, input->n_devices);
    for (uint32_t i = 0; i < input->n_devices; i++) {
        const ofr_planner_device *d = &input->devices[i];
        if (d->failure[0])
            continue;
        if (!points_are_good(d->prefill, d->n_prefill) || !points_are_good(d->decode, d->n_decode))
            return ofr_fail(err, OFR_EINVAL,
                            "planner: the times of %s are not positive, ascending in tokens, and "
                            "1 to %d",
                            d->name, OFR_PLANNER_POINTS_MAX);
        if (!(d->hop_us >= 0) || !(d->copy_gb_s >= 0) || !isfinite(d->slowdown))
            return ofr_fail(err, OFR_EINVAL, "planner: the figures of %s are not numbers", d->name);
    }
    return 0;
}

static void refuse(ofr_planner_decision *decision, const char *device, const char *reason)
{
    if (decision->n_refusals == OFR_PLANNER_DEVICES_MAX)
        return;
    ofr_planner_refusal *refusal = &decision->refusals[decision->n_refusals++];
    snprintf(refusal->device, sizeof refusal->device, "%s", device);
    snprintf(refusal->reason, sizeof refusal->reason, "%s", reason);
}

/* Layers that the device's own memory holds, beside their K and V and, with all layers, the head.
 */
static uint32_t layers_that_fit(const ofr_planner_model *model, const ofr_planner_device *device)
{
    if (device->memory_bytes == 0)
        return model->n_layers;
    double kv = (double)model->kv_bytes * model->context / model->n_layers;
    double layer = (double)model->layer_bytes + kv;
    double memory = (double)device->memory_bytes;
    if (layer * model->n_layers + (double)model->head_bytes <= memory)
        return model->n_layers;
    double fit = layer > 0 ? floor(memory / layer) : 0;
    return fit < model->n_layers ? (uint32_t)fit : model->n_layers - 1;
}

static void add_route(struct planner *p, uint32_t first, uint32_t layers, uint32_t second)
{
    const ofr_planner_input *input = p->input;
    ofr_planner_decision *decision = p->decision;
    if (decision->n_routes == OFR_PLANNER_ROUTES_MAX)
        return;
    ofr_planner_route *route = &decision->routes[decision->n_routes++];
    uint32_t end = input->model.n_layers;
    bool split = layers < end;
    route->phase.n_stages = split ? 2 : 1;
    for (uint32_t i = 0; i < route->phase.n_stages; i++) {
        ofr_plan_stage *stage = &route->phase.stages[i];
        route->devices[i] = i ? second : first;
        stage->layer_begin = i ? layers : 0;
        stage->layer_end = i ? end : layers;
        memcpy(stage->device, input->devices[route->devices[i]].name, sizeof stage->device);
    }
    if (split)
        snprintf(route->text, sizeof route->text, "%s@0-%u,%s@%u-", input->devices[first].name,
                 layers, input->devices[second].name, layers);
    else
        snprintf(route->text, sizeof route->text, "%s", input->devices[first].name);
}

static void list_routes(struct planner *p)
{
    const ofr_planner_input *input = p->input;
    uint32_t fit[OFR_PLANNER_DEVICES_MAX] = {0};
    for (uint32_t i = 0; i < input->n_devices; i++) {
        const ofr_planner_device *device = &input->devices[i];
        if (device->failure[0])
            refuse(p->decision, device->name, device->failure);
        else
            fit[i] = layers_that_fit(&input->model, device);
        if (fit[i] == input->model.n_layers)
            add_route(p, i, fit[i], 0);
    }
    for (uint32_t i = 0; i < input->n_devices; i++) {
        const ofr_planner_device *device = &input->devices[i];
        if (device->failure[0] || fit[i] == input->model.n_layers)
            continue;
        char text[OFR_PLANNER_TEXT_MAX];
        snprintf(text, sizeof text,
                 "its memory of %.1f GB holds %u of the %u layers: never the whole model",
                 (double)device->memory_bytes / 1e9, fit[i], input->model.n_layers);
        refuse(p->decision, device->name, text);
        for (uint32_t k = 0; fit[i] && k < input->n_devices; k++)
            if (k != i && fit[k] >= input->model.n_layers - fit[i])
                add_route(p, i, fit[i], k);
    }
}

static void list_lengths(struct planner *p)
{
    uint32_t context = p->input->model.context;
    for (uint32_t n = SHORTEST_PROMPT; p->n_lengths < OFR_PLANNER_LENGTHS_MAX; n *= 2) {
        if (p->n_lengths && context && n >= context)
            break;
        p->lengths[p->n_lengths++] = n;
        if (!context && n >= 4096)
            break;
    }
}

/* Is `prefill` worth a second device, before `decode`? See the header. */
static bool wins(const struct planner *p, uint32_t prefill, uint32_t decode, uint32_t tokens)
{
    ofr_planner_candidate both = predict(p, prefill, decode, tokens);
    ofr_planner_candidate alone = predict(p, decode, decode, tokens);
    if (both.total_ms < alone.total_ms * (1 - OFR_PLANNER_NOISE))
        return true;
    return both.total_ms < alone.total_ms * (1 - OFR_PLANNER_FELT) &&
           both.first_token_ms < alone.first_token_ms * (1 - OFR_PLANNER_FIRST_TOKEN);
}

/* The prefill route to go with `decode`. */
static uint32_t best_prefill(const struct planner *p, uint32_t decode, uint32_t tokens)
{
    uint32_t best = decode;
    double least = INFINITY;
    for (uint32_t i = 0; i < p->decision->n_routes; i++) {
        if (i == decode || !wins(p, i, decode, tokens))
            continue;
        double t = total(p, i, decode, tokens);
        if (t < least) {
            least = t;
            best = i;
        }
    }
    return best;
}

static void rate(const struct planner *p, uint32_t decode, bool single, const double *least,
                 struct choice *ret_choice)
{
    ret_choice->mean = 0;
    for (uint32_t i = 0; i < p->n_lengths; i++) {
        uint32_t prefill = single ? decode : best_prefill(p, decode, p->lengths[i]);
        ret_choice->prefill[i] = prefill;
        ret_choice->mean += total(p, prefill, decode, p->lengths[i]) / least[i] / p->n_lengths;
    }
}

/* Slower than the single device at any length? */
static bool ever_slower(const struct planner *p, const struct choice *choice, uint32_t decode,
                        uint32_t single)
{
    for (uint32_t i = 0; i < p->n_lengths; i++)
        if (total(p, choice->prefill[i], decode, p->lengths[i]) >
            total(p, single, single, p->lengths[i]))
            return true;
    return false;
}

static void choose(const struct planner *p, uint32_t *ret_single, uint32_t *ret_decode,
                   struct choice *ret_choice)
{
    uint32_t n = p->decision->n_routes;
    double least[OFR_PLANNER_LENGTHS_MAX];
    for (uint32_t l = 0; l < p->n_lengths; l++) {
        least[l] = INFINITY;
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < n; k++)
                least[l] = fmin(least[l], total(p, i, k, p->lengths[l]));
    }
    /* A split over two devices counts as single only where no device holds the model. */
    struct choice choice, best = {.mean = INFINITY};
    uint32_t single = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (p->decision->routes[i].phase.n_stages > 1 && p->decision->routes[0].phase.n_stages == 1)
            continue;
        rate(p, i, true, least, &choice);
        if (choice.mean < best.mean) {
            best = choice;
            single = i;
        }
    }
    rate(p, single, false, least, ret_choice);
    *ret_single = *ret_decode = single;
    for (uint32_t i = 0; i < n; i++) {
        rate(p, i, false, least, &choice);
        if (i != single && choice.mean < ret_choice->mean &&
            choice.mean < best.mean * (1 - OFR_PLANNER_NOISE) &&
            !ever_slower(p, &choice, i, single)) {
            *ret_choice = choice;
            *ret_decode = i;
        }
    }
}

/* The shortest prompt, above `low`, that `to` should prefill rather than `from`; both hold at
 * their ends. */
static uint32_t crossover(const struct planner *p, uint32_t decode, uint32_t from, uint32_t to,
                          uint32_t low, uint32_t high)
{
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        bool better = from == decode ? wins(p, to, decode, middle)
                      : to == decode
                          ? !wins(p, from, decode, middle)
                          : total(p, to, decode, middle) < total(p, from, decode, middle);
        if (better)
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* Few enough lengths for a plan: the change that gains least is dropped. */
static void limit_changes(const struct planner *p, uint32_t decode, struct choice *choice)
{
    for (;;) {
        uint32_t changes = 0, weakest = 0;
        double least = INFINITY;
        for (uint32_t i = 1; i < p->n_lengths; i++) {
            if (choice->prefill[i] == choice->prefill[i - 1])
                continue;
            changes++;
            double loss = 0;
            for (uint32_t k = i; k < p->n_lengths && choice->prefill[k] == choice->prefill[i]; k++)
                loss += total(p, choice->prefill[i - 1], decode, p->lengths[k]) /
                            total(p, choice->prefill[i], decode, p->lengths[k]) -
                        1;
            if (loss < least) {
                least = loss;
                weakest = i;
            }
        }
        if (changes <= OFR_PLAN_MAX_LENGTHS)
            return;
        uint32_t replaced = choice->prefill[weakest];
        for (uint32_t k = weakest; k < p->n_lengths && choice->prefill[k] == replaced; k++)
            choice->prefill[k] = choice->prefill[weakest - 1];
    }
}

static int make_plan(const struct planner *p, uint32_t decode, const struct choice *choice,
                     ofr_error *err)
{
    ofr_planner_decision *d = p->decision;
    ofr_plan *plan = &d->plan;
    plan->phases[OFR_PLAN_PHASE_DECODE] = d->routes[decode].phase;
    plan->phases[OFR_PLAN_PHASE_PREFILL] = d->routes[choice->prefill[0]].phase;
    for (uint32_t i = 1; i < p->n_lengths; i++) {
        uint32_t from = choice->prefill[i - 1], to = choice->prefill[i];
        if (from == to)
            continue;
        ofr_plan_length *length = &plan->longer[plan->n_longer++];
        length->min_tokens = crossover(p, decode, from, to, p->lengths[i - 1], p->lengths[i]);
        length->prefill = d->routes[to].phase;
    }
    if (ofr_plan_format(plan, p->input->model.n_layers, d->plan_text, sizeof d->plan_text) < 0)
        return ofr_fail(err, OFR_ELIMIT, "planner: the plan is too long to be written");
    return 0;
}

static int compare_candidates(const void *a, const void *b)
{
    const ofr_planner_candidate *x = a, *y = b;
    if (x->prompt_tokens != y->prompt_tokens)
        return x->prompt_tokens < y->prompt_tokens ? -1 : 1;
    return x->total_ms < y->total_ms ? -1 : x->total_ms > y->total_ms;
}

static int list_candidates(const struct planner *p, uint32_t single, uint32_t decode,
                           const struct choice *choice, ofr_error *err)
{
    ofr_planner_decision *d = p->decision;
    size_t n = (size_t)d->n_routes * d->n_routes * p->n_lengths;
    d->candidates = calloc(n, sizeof *d->candidates);
    if (!d->candidates)
        return ofr_fail(err, OFR_ENOMEM, "no memory for %zu candidates", n);
    for (uint32_t l = 0; l < p->n_lengths; l++)
        for (uint32_t i = 0; i < d->n_routes; i++)
            for (uint32_t k = 0; k < d->n_routes; k++) {
                ofr_planner_candidate *c = &d->candidates[d->n_candidates++];
                *c = predict(p, i, k, p->lengths[l]);
                c->chosen = k == decode && i == choice->prefill[l];
                c->best_single = i == single && k == single;
            }
    qsort(d->candidates, d->n_candidates, sizeof *d->candidates, compare_candidates);
    return 0;
}

/* The length at which the chosen plan gains most over the single device; 0 where it is that. */
static uint32_t clearest_length(const struct planner *p, uint32_t single, uint32_t decode,
                                const struct choice *choice, uint32_t *ret_prefill)
{
    uint32_t clearest = 0;
    double gain = 1;
    for (uint32_t i = 0; i < p->n_lengths; i++) {
        double ratio = total(p, choice->prefill[i], decode, p->lengths[i]) /
                       total(p, single, single, p->lengths[i]);
        if (ratio < gain) {
            gain = ratio;
            clearest = p->lengths[i];
            *ret_prefill = choice->prefill[i];
        }
    }
    return clearest;
}

static void explain(const struct planner *p, uint32_t single, uint32_t decode,
                    const struct choice *choice)
{
    ofr_planner_decision *d = p->decision;
    const char *one = d->routes[single].text;
    uint32_t prefill = single;
    uint32_t n = clearest_length(p, single, decode, choice, &prefill);
    if (n) {
        ofr_planner_candidate a = predict(p, prefill, decode, n);
        ofr_planner_candidate b = predict(p, single, single, n);
        snprintf(d->reason, sizeof d->reason,
                 "%s prefills and %s decodes: a prompt of %u tokens with an answer of %u takes "
                 "%.2f s, %.2f s of them to the first token; %s alone, the best single device, "
                 "takes %.2f s, %.2f s of them to the first token",
                 d->routes[prefill].text, d->routes[decode].text, n, p->answer, a.total_ms / 1e3,
                 a.first_token_ms / 1e3, one, b.total_ms / 1e3, b.first_token_ms / 1e3);
    } else if (d->n_routes == 1) {
        snprintf(d->reason, sizeof d->reason, "%s is the only device to choose from", one);
    } else {
        snprintf(d->reason, sizeof d->reason,
                 "%s does both phases: no other device, and no combination, is predicted to be "
                 "more than %.0f %% faster",
                 one, OFR_PLANNER_NOISE * 100);
    }
    for (uint32_t i = 0; i < p->input->n_devices; i++) {
        const ofr_planner_device *device = &p->input->devices[i];
        size_t used = strlen(d->reason);
        if (device->failure[0] == 0 && device->condition[0] && slowdown(device) > 1)
            snprintf(d->reason + used, sizeof d->reason - used,
                     "; %s counts as %.1f times slower: %s", device->name, slowdown(device),
                     device->condition);
    }
}

static int fail_without_route(const ofr_planner_decision *d, ofr_error *err)
{
    char text[400] = "";
    for (uint32_t i = 0; i < d->n_refusals; i++) {
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s: %s", i ? "; " : "", d->refusals[i].device,
                 d->refusals[i].reason);
    }
    return ofr_fail(err, OFR_EDEVICE, "no device of this machine can run the model (%s)",
                    text[0] ? text : "none is present");
}

int ofr_planner_decide(const ofr_planner_input *input, ofr_planner_decision **ret_decision,
                       ofr_error *err)
{
    int r = check_input(input, err);
    if (r < 0)
        return r;
    ofr_planner_decision *decision = calloc(1, sizeof *decision);
    if (!decision)
        return ofr_fail(err, OFR_ENOMEM, "no memory for a plan");
    struct planner p = {.input = input, .decision = decision};
    p.answer = input->answer_tokens ? input->answer_tokens : OFR_PLANNER_ANSWER_TOKENS;
    decision->answer_tokens = p.answer;
    list_routes(&p);
    list_lengths(&p);
    if (decision->n_routes == 0)
        r = fail_without_route(decision, err);
    if (r == 0) {
        uint32_t single = 0, decode = 0;
        struct choice choice;
        choose(&p, &single, &decode, &choice);
        limit_changes(&p, decode, &choice);
        r = make_plan(&p, decode, &choice, err);
        if (r == 0)
            r = list_candidates(&p, single, decode, &choice, err);
        explain(&p, single, decode, &choice);
    }
    if (r < 0) {
        ofr_planner_decision_free(decision);
        return r;
    }
    *ret_decision = decision;
    return 0;
}

void ofr_planner_decision_free(ofr_planner_decision *decision)
{
    if (decision)
        free(decision->candidates);
    free(decision);
}

const ofr_planner_candidate *ofr_planner_find(const ofr_planner_decision *decision,
                                              uint32_t prompt_tokens, const char *prefill,
                                              const char *decode)
{
    for (size_t i = 0; i < decision->n_candidates; i++) {
        const ofr_planner_candidate *c = &decision->candidates[i];
        if (c->prompt_tokens == prompt_tokens &&
            strcmp(decision->routes[c->prefill].text, prefill) == 0 &&
            strcmp(decision->routes[c->decode].text, decode) == 0)
            return c;
    }
    return NULL;
}
