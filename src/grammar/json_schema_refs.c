/* References between schemas: $id, $anchor, $ref. Only within the one document. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grammar/json_schema_internal.h"

int ofr_schema_no_memory(ofr_schema_compiler *c)
{
    return ofr_fail(c->err, OFR_ENOMEM, "no memory for a JSON schema");
}

/* Writes the JSON pointer of `target` below `at`, from offset `size` on; false if it is not there.
 */
static bool find_path(const json_t *at, const json_t *target, char *path, size_t room, size_t size,
                      int depth)
{
    if (at == target)
        return true;
    if (depth == 0)
        return false;
    const char *key;
    json_t *value;
    size_t index;
    if (json_is_object(at)) {
        json_object_foreach((json_t *)(uintptr_t)at, key, value)
        {
            int n = snprintf(path + size, room - size, "/%s", key);
            if (find_path(value, target, path, room,
                          size + (size_t)n < room ? size + (size_t)n : size, depth - 1))
                return true;
        }
    } else if (json_is_array(at)) {
        json_array_foreach(at, index, value)
        {
            int n = snprintf(path + size, room - size, "/%zu", index);
            if (find_path(value, target, path, room,
                          size + (size_t)n < room ? size + (size_t)n : size, depth - 1))
                return true;
        }
    }
    path[size] = '\0';
    return false;
}

int ofr_schema_fail(ofr_schema_compiler *c, const json_t *schema, int code, const char *format, ...)
{
    char path[256] = "", text[512];
    bool found = false;
    for (size_t i = 0; schema && !found && i < c->n_roots; i++)
        found = find_path(c->roots[i], schema, path, sizeof path, 0, 64);
    if (!found)
        path[0] = '\0';
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return ofr_fail(c->err, code, "JSON schema, #%s: %s", path, text);
}

/* The parts of a URI reference (RFC 3986, appendix B); sizes are 0 for empty and missing ones. */
typedef struct uri {
    const char *scheme, *authority, *path, *query, *fragment;
    size_t scheme_size, authority_size, path_size, query_size;
    bool has_authority, has_query;
} uri;

static uri split_uri(const char *text)
{
    uri u = {0};
    size_t n = strcspn(text, ":/?#");
    if (text[n] == ':' && n > 0) {
        u.scheme = text;
        u.scheme_size = n;
        text += n + 1;
    }
    if (strncmp(text, "//", 2) == 0) {
        u.has_authority = true;
        u.authority = text + 2;
        u.authority_size = strcspn(u.authority, "/?#");
        text = u.authority + u.authority_size;
    }
    u.path = text;
    u.path_size = strcspn(text, "?#");
    text += u.path_size;
    if (*text == '?') {
        u.has_query = true;
        u.query = text + 1;
        u.query_size = strcspn(u.query, "#");
        text = u.query + u.query_size;
    }
    u.fragment = *text == '#' ? text + 1 : "";
    return u;
}

/* Removes "." and ".." segments in place. */
static void remove_dots(char *path)
{
    char *out = path, *in = path;
    while (*in) {
        if (strncmp(in, "/./", 3) == 0 || strcmp(in, "/.") == 0) {
            in += in[2] ? 2 : 1;
            *in = '/';
        } else if (strncmp(in, "/../", 4) == 0 || strcmp(in, "/..") == 0) {
            in += in[3] ? 3 : 2;
            *in = '/';
            while (out > path && *--out != '/')
                ;
        } else {
            *out++ = *in++;
            while (*in && *in != '/')
                *out++ = *in++;
        }
        if (in[0] == '/' && in[1] == '\0' && (out == path || out[-1] != '/')) {
            *out++ = '/';
            break;
        }
    }
    *out = '\0';
}

/* `reference` against `base`, without its fragment; malloc'ed. */
static char *resolve_uri(const char *base_text, const char *reference)
{
    uri base = split_uri(base_text), r = split_uri(reference);
    size_t room = strlen(base_text) + strlen(reference) + 8;
    char *path = calloc(1, room), *result = calloc(1, room);
    if (!path || !result) {
        free(path);
        free(result);
        return NULL;
    }
    uri target = r;
    if (!r.scheme) {
        target.scheme = base.scheme;
        target.scheme_size = base.scheme_size;
        if (!r.has_authority) {
            target.has_authority = base.has_authority;
            target.authority = base.authority;
            target.authority_size = base.authority_size;
            if (r.path_size == 0) {
                target.path = base.path;
                target.path_size = base.path_size;
                if (!r.has_query) {
                    target.has_query = base.has_query;
                    target.query = base.query;
                    target.query_size = base.query_size;
                }
            }
        }
    }
    size_t keep = 0; /* of the base's path, up to its last slash */
    if (!r.scheme && !r.has_authority && r.path_size && r.path[0] != '/')
        for (size_t i = 0; i < base.path_size; i++)
            keep = base.path[i] == '/' ? i + 1 : keep;
    snprintf(path, room, "%.*s%.*s", (int)keep, base.path, (int)target.path_size, target.path);
    if (path[0] == '/')
        remove_dots(path);
    snprintf(result, room, "%.*s%s%s%.*s%s%s%.*s", (int)target.scheme_size,
             target.scheme ? target.scheme : "", target.scheme ? ":" : "",
             target.has_authority ? "//" : "", (int)target.authority_size,
             target.authority ? target.authority : "", path, target.has_query ? "?" : "",
             (int)target.query_size, target.query ? target.query : "");
    free(path);
    return result;
}

static int add_resource(ofr_schema_compiler *c, const char *base, const char *id,
                        const json_t *root)
{
    if (c->n_resources == c->resources_room) {
        size_t room = c->resources_room ? c->resources_room * 2 : 8;
        ofr_resource *grown = realloc(c->resources, room * sizeof *grown);
        if (!grown)
            return ofr_schema_no_memory(c);
        c->resources = grown;
        c->resources_room = room;
    }
    char *text = resolve_uri(base, id);
    if (!text)
        return ofr_schema_no_memory(c);
    c->resources[c->n_resources++] = (ofr_resource){.uri = text, .root = root};
    return 0;
}

static int index_schema(ofr_schema_compiler *c, const json_t *at, uint32_t resource, int depth)
{
    if (depth == 0)
        return ofr_schema_fail(c, NULL, OFR_ELIMIT, "more than %d levels", OFR_SCHEMA_NESTING_MAX);
    int r = 0;
    const char *key;
    json_t *value;
    size_t index;
    if (json_is_array(at))
        json_array_foreach(at, index, value)
        {
            r = index_schema(c, value, resource, depth - 1);
            if (r < 0)
                return r;
        }
    if (!json_is_object(at))
        return r;
    const json_t *id = json_object_get(at, "$id");
    if (json_is_string(id)) {
        r = add_resource(c, c->resources[resource].uri, json_string_value(id), at);
        if (r < 0)
            return r;
        resource = (uint32_t)c->n_resources - 1;
    }
    if (c->n_places == c->places_room) {
        size_t room = c->places_room ? c->places_room * 2 : 64;
        ofr_schema_place *grown = realloc(c->places, room * sizeof *grown);
        if (!grown)
            return ofr_schema_no_memory(c);
        c->places = grown;
        c->places_room = room;
    }
    c->places[c->n_places++] = (ofr_schema_place){at, resource};
    json_object_foreach((json_t *)(uintptr_t)at, key, value)
    {
        /* Values, not schemas. */
        if (strcmp(key, "enum") == 0 || strcmp(key, "const") == 0 || strcmp(key, "default") == 0 ||
            strcmp(key, "examples") == 0)
            continue;
        r = index_schema(c, value, resource, depth - 1);
        if (r < 0)
            return r;
    }
    return 0;
}

static int compare_places(const void *a, const void *b)
{
    const ofr_schema_place *x = a, *y = b;
    return ((uintptr_t)x->schema > (uintptr_t)y->schema) -
           ((uintptr_t)x->schema < (uintptr_t)y->schema);
}

int ofr_schema_index(ofr_schema_compiler *c)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < c->n_roots; i++) {
        /* Names that no reference of another root can have. */
        char name[32];
        snprintf(name, sizeof name, "root-%zu:", i);
        r = add_resource(c, "", c->n_roots > 1 ? name : "", c->roots[i]);
        if (r == 0)
            r = index_schema(c, c->roots[i], (uint32_t)c->n_resources - 1, OFR_SCHEMA_NESTING_MAX);
    }
    if (r == 0 && c->n_places)
        qsort(c->places, c->n_places, sizeof *c->places, compare_places);
    return r;
}

void ofr_schema_index_done(ofr_schema_compiler *c)
{
    for (size_t i = 0; i < c->n_resources; i++)
        free(c->resources[i].uri);
    free(c->resources);
    free(c->places);
}

/* "%25" is "%". */
static void decode_percent(char *text)
{
    char *out = text;
    for (; *text; text++) {
        unsigned value;
        if (text[0] == '%' && sscanf(text + 1, "%2x", &value) == 1 && text[1] && text[2]) {
            *out++ = (char)value;
            text += 2;
        } else {
            *out++ = *text;
        }
    }
    *out = '\0';
}

/* One step of a JSON pointer (RFC 6901), "~0" and "~1" decoded in place. */
static const json_t *step_pointer(const json_t *at, char *token)
{
    char *out = token;
    for (char *in = token; *in; in++) {
        bool escaped = in[0] == '~' && (in[1] == '0' || in[1] == '1');
        *out++ = !escaped ? *in : in[1] == '0' ? '~' : '/';
        in += escaped;
    }
    *out = '\0';
    if (json_is_object(at))
        return json_object_get(at, token);
    if (json_is_array(at) && token[0] && strspn(token, "0123456789") == strlen(token) &&
        strlen(token) < 9)
        return json_array_get(at, (size_t)atoi(token));
    return NULL;
}

static const json_t *find_anchor(const ofr_schema_compiler *c, uint32_t resource, const char *name)
{
    for (size_t i = 0; i < c->n_places; i++) {
        const json_t *anchor = json_object_get(c->places[i].schema, "$anchor");
        if (c->places[i].resource == resource && json_is_string(anchor) &&
            strcmp(json_string_value(anchor), name) == 0)
            return c->places[i].schema;
    }
    return NULL;
}

static const json_t *find_target(const ofr_schema_compiler *c, const char *resolved, char *fragment)
{
    for (uint32_t i = 0; i < c->n_resources; i++) {
        if (strcmp(c->resources[i].uri, resolved) != 0)
            continue;
        const json_t *at = c->resources[i].root;
        if (fragment[0] && fragment[0] != '/')
            return find_anchor(c, i, fragment);
        for (char *token = fragment; at && *token == '/';) {
            char *end = strchr(++token, '/');
            if (end)
                *end = '\0';
            at = step_pointer(at, token);
            token = end ? end : token + strlen(token);
            if (end)
                *end = '/';
        }
        return at;
    }
    return NULL;
}

int ofr_schema_resolve(ofr_schema_compiler *c, const json_t *schema, const char *reference,
                       const json_t **ret_target)
{
    ofr_schema_place key = {schema, 0};
    const ofr_schema_place *place =
        bsearch(&key, c->places, c->n_places, sizeof *c->places, compare_places);
    const char *base = c->resources[place ? place->resource : 0].uri;
    char *resolved = resolve_uri(base, reference);
    char *fragment = strdup(split_uri(reference).fragment);
    if (!resolved || !fragment) {
        free(resolved);
        free(fragment);
        return ofr_schema_no_memory(c);
    }
    decode_percent(fragment);
    const json_t *target = find_target(c, resolved, fragment);
    free(resolved);
    free(fragment);
    if (!target)
        return ofr_schema_fail(c, schema, OFR_EUNSUPPORTED,
                               "'$ref' to '%s' leads to nothing in this document; references to "
                               "other documents are not supported",
                               reference);
    if (!json_is_object(target) && !json_is_boolean(target))
        return ofr_schema_fail(c, schema, OFR_EINVAL, "'$ref' to '%s' leads to no schema",
                               reference);
    *ret_target = target;
    return 0;
}
