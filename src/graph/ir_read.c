/* A scanner of tags, and what is kept of them. */
#include "graph/ir_read.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 24, ATTRIBUTES_MAX = 24 };

typedef struct attribute {
    ofr_ir_text name, value;
} attribute;

typedef struct tag {
    ofr_ir_text name;
    bool closes, empty; /* </x>; <x/> */
    attribute attributes[ATTRIBUTES_MAX];
    size_t n_attributes;
} tag;

/* Nodes with their ids, in the order of these. */
typedef struct id_index {
    uint64_t id;
    uint32_t node;
} id_index;

typedef struct reader {
    const char *text, *at, *end;
    ofr_ir_document *document;
    size_t room_nodes, room_ports, room_edges;
    ofr_ir_text open[DEPTH_MAX]; /* elements that are not closed yet */
    size_t depth;
    id_index *ids; /* once the layers are read */
    ofr_error *err;
} reader;

int ofr_ir_text_is(ofr_ir_text text, const char *value)
{
    return text.size == strlen(value) && memcmp(text.at, value, text.size) == 0;
}

int ofr_ir_text_number(ofr_ir_text text, uint64_t *ret_value)
{
    uint64_t value = 0;
    if (text.size == 0 || text.size > 19)
        return OFR_EFORMAT;
    for (size_t i = 0; i < text.size; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return OFR_EFORMAT;
        value = value * 10 + (uint64_t)(text.at[i] - '0');
    }
    *ret_value = value;
    return 0;
}

static int fail(const reader *r, const char *what)
{
    size_t line = 1;
    for (const char *at = r->text; at < r->at; at++)
        line += *at == '\n';
    return ofr_fail(r->err, OFR_EFORMAT, "line %zu: %s", line, what);
}

/* Room for one more element of `size` bytes. */
static int grow(reader *r, void **array, size_t n, size_t *room, size_t size, size_t limit)
{
    if (n < *room)
        return 0;
    size_t wanted = *room ? *room * 2 : 64;
    if (n >= limit)
        return fail(r, "more elements than any graph has");
    void *grown = realloc(*array, wanted * size);
    if (!grown)
        return ofr_fail(r->err, OFR_ENOMEM, "out of memory");
    *array = grown;
    *room = wanted;
    return 0;
}

/* ---- tags ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.' || c == ':';
}

static void skip_space(reader *r)
{
    while (r->at < r->end && is_space(*r->at))
        r->at++;
}

static ofr_ir_text take_name(reader *r)
{
    ofr_ir_text name = {.at = r->at};
    while (r->at < r->end && is_name(*r->at))
        r->at++;
    name.size = (size_t)(r->at - name.at);
    return name;
}

static int skip_past(reader *r, const char *what)
{
    const char *found = memmem(r->at, (size_t)(r->end - r->at), what, strlen(what));
    if (!found)
        return fail(r, "a comment or declaration has no end");
    r->at = found + strlen(what);
    return 0;
}

static int take_attribute(reader *r, tag *t)
{
    attribute a = {.name = take_name(r)};
    skip_space(r);
    if (a.name.size == 0 || r->at == r->end || *r->at != '=')
        return fail(r, "an attribute is expected");
    r->at++;
    skip_space(r);
    char quote = r->at < r->end ? *r->at : '\0';
    if (quote != '"' && quote != '\'')
        return fail(r, "an attribute has no quoted value");
    const char *begin = ++r->at;
    const char *end = memchr(begin, quote, (size_t)(r->end - begin));
    if (!end)
        return fail(r, "an attribute's value has no end");
    a.value = (ofr_ir_text){begin, (size_t)(end - begin)};
    r->at = end + 1;
    if (t->n_attributes == ATTRIBUTES_MAX)
        return fail(r, "an element has too many attributes");
    t->attributes[t->n_attributes++] = a;
    return 0;
}

static int take_attributes(reader *r, tag *t)
{
    for (;;) {
        skip_space(r);
        if (r->at == r->end)
            return fail(r, "an element has no end");
        if (*r->at == '>') {
            r->at++;
            return 0;
        }
        if (*r->at == '/' && r->end - r->at > 1 && r->at[1] == '>' && !t->closes) {
            t->empty = true;
            r->at += 2;
            return 0;
        }
        int result = take_attribute(r, t);
        if (result < 0)
            return result;
    }
}

/* The next tag; ret_text is what lies before it. 1: there is none. */
static int next_tag(reader *r, ofr_ir_text *ret_text, tag *ret_tag)
{
    *ret_text = (ofr_ir_text){.at = r->at};
    for (;;) {
        const char *found = r->at < r->end ? memchr(r->at, '<', (size_t)(r->end - r->at)) : NULL;
        if (!found)
            return 1;
        ret_text->size = (size_t)(found - ret_text->at);
        r->at = found + 1;
        bool comment = r->end - r->at >= 3 && memcmp(r->at, "!--", 3) == 0;
        bool declaration = r->at < r->end && *r->at == '?';
        if (!comment && !declaration)
            break;
        int result = skip_past(r, comment ? "-->" : "?>");
        if (result < 0)
            return result;
    }
    ret_tag->n_attributes = 0;
    ret_tag->empty = false;
    ret_tag->closes = r->at < r->end && *r->at == '/';
    r->at += ret_tag->closes;
    ret_tag->name = take_name(r);
    return ret_tag->name.size == 0 ? fail(r, "an element has no name")
                                   : take_attributes(r, ret_tag);
}

static ofr_ir_text value_of(const tag *t, const char *name)
{
    for (size_t i = 0; i < t->n_attributes; i++)
        if (ofr_ir_text_is(t->attributes[i].name, name))
            return t->attributes[i].value;
    return (ofr_ir_text){0};
}

/* ---- what is kept ---- */

/* Is the path of open elements "net", and then these? */
static bool inside(const reader *r, size_t n, const char *const *names)
{
    if (r->depth != n + 1 || !ofr_ir_text_is(r->open[0], "net"))
        return false;
    for (size_t i = 0; i < n; i++)
        if (!ofr_ir_text_is(r->open[i + 1], names[i]))
            return false;
    return true;
}
#define INSIDE(r, ...)                                                                             \
    inside(r, sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static int add_node(reader *r, const tag *t)
{
    ofr_ir_document *d = r->document;
    int result = grow(r, (void **)&d->nodes, d->n_nodes, &r->room_nodes, sizeof *d->nodes,
                      OFR_IR_READ_NODES_MAX);
    if (result < 0)
        return result;
    ofr_ir_read_node node = {.name = value_of(t, "name"),
                             .type = value_of(t, "type"),
                             .version = value_of(t, "version"),
                             .ports = (uint32_t)d->n_ports};
    if (ofr_ir_text_number(value_of(t, "id"), &node.id) < 0 || node.type.size == 0)
        return fail(r, "a layer without a number or a type");
    d->nodes[d->n_nodes++] = node;
    return 0;
}

static int add_port(reader *r, const tag *t, bool is_input)
{
    ofr_ir_document *d = r->document;
    int result = grow(r, (void **)&d->ports, d->n_ports, &r->room_ports, sizeof *d->ports,
                      OFR_IR_READ_PORTS_MAX);
    if (result < 0)
        return result;
    ofr_ir_read_node *node = &d->nodes[d->n_nodes - 1];
    uint64_t id;
    if (ofr_ir_text_number(value_of(t, "id"), &id) < 0 || id > UINT32_MAX)
        return fail(r, "a port without a number");
    if (is_input && node->n_outputs > 0)
        return fail(r, "inputs behind outputs");
    d->ports[d->n_ports++] =
        (ofr_ir_read_port){.id = (uint32_t)id, .precision = value_of(t, "precision")};
    if (is_input)
        node->n_inputs++;
    else
        node->n_outputs++;
    return 0;
}

static int add_dim(reader *r, ofr_ir_text text)
{
    ofr_ir_read_port *port = &r->document->ports[r->document->n_ports - 1];
    uint64_t value = 0;
    if (port->rank == OFR_IR_READ_RANK_MAX)
        return fail(r, "a shape of too many dimensions");
    if (ofr_ir_text_is(text, "-1"))
        port->dims[port->rank++] = -1;
    else if (ofr_ir_text_number(text, &value) < 0 || value > INT64_MAX)
        return fail(r, "a dimension that is no number");
    else
        port->dims[port->rank++] = (int64_t)value;
    return 0;
}

static void keep_data(reader *r, const tag *t)
{
    ofr_ir_read_node *node = &r->document->nodes[r->document->n_nodes - 1];
    node->element_type = value_of(t, "element_type");
    node->destination_type = value_of(t, "destination_type");
    node->shape = value_of(t, "shape");
    node->offset = value_of(t, "offset");
    node->size = value_of(t, "size");
    node->variable_shape = value_of(t, "variable_shape");
}

/* ---- edges ---- */

static int compare_ids(const void *a, const void *b)
{
    const id_index *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int index_nodes(reader *r)
{
    const ofr_ir_document *d = r->document;
    if (r->ids)
        return fail(r, "a second list of layers or edges");
    r->ids = calloc(d->n_nodes + 1, sizeof *r->ids);
    if (!r->ids)
        return ofr_fail(r->err, OFR_ENOMEM, "out of memory");
    for (size_t i = 0; i < d->n_nodes; i++)
        r->ids[i] = (id_index){d->nodes[i].id, (uint32_t)i};
    qsort(r->ids, d->n_nodes, sizeof *r->ids, compare_ids);
    for (size_t i = 1; i < d->n_nodes; i++)
        if (r->ids[i].id == r->ids[i - 1].id)
            return fail(r, "two layers of one number");
    return 0;
}

static int find_end(const reader *r, const tag *t, const char *layer, const char *port,
                    bool is_input, uint32_t *ret_node, uint32_t *ret_port)
{
    const ofr_ir_document *d = r->document;
    id_index key = {0};
    uint64_t port_id;
    if (ofr_ir_text_number(value_of(t, layer), &key.id) < 0 ||
        ofr_ir_text_number(value_of(t, port), &port_id) < 0)
        return fail(r, "an edge without numbers");
    const id_index *found = bsearch(&key, r->ids, d->n_nodes, sizeof key, compare_ids);
    if (!found)
        return fail(r, "an edge of a layer that is not there");
    const ofr_ir_read_node *node = &d->nodes[found->node];
    uint32_t first = is_input ? node->ports : node->ports + node->n_inputs;
    uint32_t n = is_input ? node->n_inputs : node->n_outputs;
    for (uint32_t i = 0; i < n; i++) {
        if (d->ports[first + i].id == port_id) {
            *ret_node = found->node;
            *ret_port = first + i;
            return 0;
        }
    }
    return fail(r, "an edge of a port that is not there");
}

static int add_edge(reader *r, const tag *t)
{
    ofr_ir_document *d = r->document;
    ofr_ir_read_edge edge = {0};
    int result = grow(r, (void **)&d->edges, d->n_edges, &r->room_edges, sizeof *d->edges,
                      OFR_IR_READ_EDGES_MAX);
    if (result == 0)
        result = find_end(r, t, "from-layer", "from-port", false, &edge.from, &edge.from_port);
    if (result == 0)
        result = find_end(r, t, "to-layer", "to-port", true, &edge.to, &edge.to_port);
    if (result == 0)
        d->edges[d->n_edges++] = edge;
    return result;
}

/* ---- all ---- */

static int keep(reader *r, const tag *t)
{
    if (INSIDE(r, "layers") && ofr_ir_text_is(t->name, "layer"))
        return add_node(r, t);
    if (INSIDE(r, "layers", "layer") && ofr_ir_text_is(t->name, "data"))
        keep_data(r, t);
    else if (INSIDE(r, "layers", "layer", "input") && ofr_ir_text_is(t->name, "port"))
        return add_port(r, t, true);
    else if (INSIDE(r, "layers", "layer", "output") && ofr_ir_text_is(t->name, "port"))
        return add_port(r, t, false);
    else if (r->depth == 1 && ofr_ir_text_is(t->name, "edges"))
        return index_nodes(r);
    else if (INSIDE(r, "edges") && ofr_ir_text_is(t->name, "edge"))
        return add_edge(r, t);
    else if (r->ids && r->depth == 1 && ofr_ir_text_is(t->name, "layers"))
        return fail(r, "layers behind the edges");
    return 0;
}

static int close_element(reader *r, const tag *t, ofr_ir_text text)
{
    if (r->depth == 0 || r->open[r->depth - 1].size != t->name.size ||
        memcmp(r->open[r->depth - 1].at, t->name.at, t->name.size) != 0)
        return fail(r, "an element is closed that was not open");
    r->depth--;
    bool dim = ofr_ir_text_is(t->name, "dim") && (INSIDE(r, "layers", "layer", "input", "port") ||
                                                  INSIDE(r, "layers", "layer", "output", "port"));
    return dim ? add_dim(r, text) : 0;
}

static int read_all(reader *r)
{
    for (;;) {
        ofr_ir_text text;
        tag t;
        int result = next_tag(r, &text, &t);
        if (result < 0)
            return result;
        if (result == 1)
            break;
        if (t.closes) {
            result = close_element(r, &t, text);
        } else {
            result = keep(r, &t);
            if (result == 0 && !t.empty && r->depth == DEPTH_MAX)
                result = fail(r, "elements are nested too deeply");
            if (result == 0 && !t.empty)
                r->open[r->depth++] = t.name;
        }
        if (result < 0)
            return result;
    }
    if (r->depth > 0)
        return fail(r, "an element has no end");
    return r->ids && r->document->n_nodes > 0 ? 0 : fail(r, "no graph of layers and edges");
}

int ofr_ir_read(const char *text, size_t size, ofr_ir_document *ret_document, ofr_error *err)
{
    reader r = {.text = text, .at = text, .end = text + size, .document = ret_document, .err = err};
    if (size > OFR_IR_READ_TEXT_MAX)
        return ofr_fail(err, OFR_ELIMIT, "%zu bytes of graph; %d are the most", size,
                        OFR_IR_READ_TEXT_MAX);
    int result = read_all(&r);
    free(r.ids);
    if (result < 0)
        ofr_ir_document_done(ret_document);
    return result;
}

void ofr_ir_document_done(ofr_ir_document *document)
{
    free(document->nodes);
    free(document->ports);
    free(document->edges);
    *document = (ofr_ir_document){0};
}
