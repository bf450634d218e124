/* Chat templates: a Jinja interpreter with the settings of the transformers library
 * (trim_blocks, lstrip_blocks, keep_trailing_newline off, loop controls, raise_exception, tojson,
 * strftime_now).
 *
 * A compiled template is immutable and may be rendered by many threads at once. Rendering is
 * bounded in steps, depth and output size, so that a template from the internet cannot hang or
 * exhaust the process. */
#ifndef OFR_TEMPLATE_CHAT_TEMPLATE_H
#define OFR_TEMPLATE_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "base/status.h"

typedef struct ofr_chat_template ofr_chat_template;

/* Compiles `source` [size bytes, UTF-8]. `name` (borrowed for the call) appears in errors, which
 * say line and column: "chat_template.jinja:12:7: unexpected 'endfor'". */
int ofr_chat_template_compile(const char *name, const char *source, size_t size,
                              ofr_chat_template **ret_template, ofr_error *err);
ofr_chat_template *ofr_chat_template_free(ofr_chat_template *tmpl);

/* Renders with the given variables: `context` is a JSON object whose members are the template's
 * globals (messages, tools, bos_token, ...); borrowed. `now` is what strftime_now formats (local
 * time). *ret_text is malloc'ed and NUL-terminated. raise_exception('...') gives OFR_ETEMPLATE with
 * the template's own message and the line. */
int ofr_chat_template_render(const ofr_chat_template *tmpl, const json_t *context, time_t now,
                             char **ret_text, size_t *ret_size, ofr_error *err);

/* The variables a conversation gives to a template, as transformers' apply_chat_template does. */
typedef struct ofr_chat_input {
    const json_t *messages; /* array of {role, content, ...}; required */
    const json_t *tools;    /* array, or NULL: the variable is none */
    const json_t *extra;    /* object of further variables, or NULL */
    const char *bos_token;  /* NULL: "" */
    const char *eos_token;
    bool add_generation_prompt;
} ofr_chat_input;
int ofr_chat_template_render_chat(const ofr_chat_template *tmpl, const ofr_chat_input *input,
                                  time_t now, char **ret_text, size_t *ret_size, ofr_error *err);

#endif
