/* Chat templates, public interface: compile, render, and the variables of a conversation. */
#include "template/chat_template.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "template/interpreter.h"
#include "template/text.h"

struct ofr_chat_template {
    jinja_arena arena;
    const char *name, *source;
    size_t source_size;
    jinja_block block;
};

/* Numbers and dates are written as in the C locale, whatever the program has set. */
static int enter_c_locale(locale_t *ret_old, locale_t *ret_new, ofr_error *err)
{
    *ret_new = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (*ret_new == (locale_t)0) {
        return ofr_fail(err, OFR_ENOMEM, "chat template: out of memory");
    }
    *ret_old = uselocale(*ret_new);
    return 0;
}

static void leave_c_locale(locale_t old_locale, locale_t new_locale)
{
    uselocale(old_locale);
    freelocale(new_locale);
}

/* Copies the source with \n line ends and without a final one, as jinja2 does. */
static size_t normalize(char *copy, const char *source, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < size; i++) {
        if (source[i] == '\r') {
            copy[used++] = '\n';
            i += i + 1 < size && source[i + 1] == '\n';
        } else {
            copy[used++] = source[i];
        }
    }
    return used - (used > 0 && copy[used - 1] == '\n');
}

/* The part of compiling that may leave by jinja_fail. */
static int compile_guarded(jinja_state *s, ofr_chat_template *tmpl, const char *name,
                           const char *source, size_t size)
{
    int rc = setjmp(s->failure);
    if (rc < 0) {
        return rc;
    }
    s->arena = &tmpl->arena;
    s->name = name;
    s->source = "";
    size_t name_size = strlen(name) + 1;
    char *name_copy = jinja_alloc(s, name_size);
    memcpy(name_copy, name, name_size);
    char *copy = jinja_alloc(s, size + 1);
    tmpl->name = s->name = name_copy;
    tmpl->source_size = normalize(copy, source, size);
    copy[tmpl->source_size] = '\0';
    tmpl->source = s->source = copy;
    s->source_size = tmpl->source_size;
    tmpl->block = jinja_parse(s);
    return 0;
}

int ofr_chat_template_compile(const char *name, const char *source, size_t size,
                              ofr_chat_template **ret_template, ofr_error *err)
{
    size_t bad;
    if (size > JINJA_MAX_SOURCE) {
        return ofr_fail(err, OFR_ELIMIT, "%s: a template of %zu bytes is too large (at most %d)",
                        name, size, JINJA_MAX_SOURCE);
    }
    if (!jinja_utf8_valid(source, size, &bad)) {
        size_t line, column;
        jinja_position(source, bad, &line, &column);
        return ofr_fail(err, OFR_EUTF8, "%s:%zu:%zu: the template is not valid UTF-8", name, line,
                        column);
    }
    ofr_chat_template *tmpl = calloc(1, sizeof *tmpl);
    jinja_state *s = calloc(1, sizeof *s);
    locale_t old_locale = (locale_t)0, new_locale = (locale_t)0;
    int rc = OFR_ENOMEM;
    if (!tmpl || !s) {
        ofr_fail(err, rc, "%s: out of memory", name);
    } else if ((rc = enter_c_locale(&old_locale, &new_locale, err)) == 0) {
        s->err = err;
        jinja_arena_init(&tmpl->arena, JINJA_MAX_COMPILE_BYTES);
        rc = compile_guarded(s, tmpl, name, source, size);
        leave_c_locale(old_locale, new_locale);
    }
    free(s);
    if (rc < 0) {
        ofr_chat_template_free(tmpl);
        return rc;
    }
    *ret_template = tmpl;
    return 0;
}

ofr_chat_template *ofr_chat_template_free(ofr_chat_template *tmpl)
{
    if (tmpl) {
        jinja_arena_done(&tmpl->arena);
        free(tmpl);
    }
    return NULL;
}

/* Variables are given as objects; of those that share a name the last one counts. */
static int render_guarded(jinja_state *s, const ofr_chat_template *tmpl,
                          const json_t *const *objects, size_t count)
{
    int rc = setjmp(s->failure);
    if (rc < 0) {
        return rc;
    }
    s->name = tmpl->name;
    s->source = tmpl->source;
    s->source_size = tmpl->source_size;
    s->context = jinja_dict_new(s);
    for (size_t i = 0; i < count; i++) {
        const char *key;
        size_t key_size;
        json_t *member;
        json_object_keylen_foreach((json_t *)(uintptr_t)objects[i], key, key_size, member)
        {
            jinja_value value = jinja_from_json(s, member);
            jinja_dict_set(s, s->context, jinja_part(s, key, key_size), value);
        }
    }
    s->scope = s->globals = jinja_scope_new(s, NULL);
    jinja_exec_block(s, &tmpl->block);
    jinja_output(s, "", 0); /* makes room for the NUL where nothing was written */
    s->output[s->output_size] = '\0';
    size_t bad;
    if (!jinja_utf8_valid(s->output, s->output_size, &bad)) {
        jinja_fail(s, OFR_EUTF8, "the output has a lone surrogate, which UTF-8 cannot express");
    }
    return 0;
}

static int render(const ofr_chat_template *tmpl, const json_t *const *objects, size_t count,
                  time_t now, char **ret_text, size_t *ret_size, ofr_error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!json_is_object(objects[i])) {
            return ofr_fail(err, OFR_EINVAL, "%s: the variables must be a JSON object", tmpl->name);
        }
    }
    jinja_state *s = calloc(1, sizeof *s);
    if (!s) {
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory", tmpl->name);
    }
    locale_t old_locale = (locale_t)0, new_locale = (locale_t)0;
    int rc = enter_c_locale(&old_locale, &new_locale, err);
    if (rc == 0) {
        jinja_arena arena;
        jinja_arena_init(&arena, JINJA_MAX_RENDER_BYTES);
        s->arena = &arena;
        s->err = err;
        s->now = now;
        rc = render_guarded(s, tmpl, objects, count);
        jinja_arena_done(&arena);
        leave_c_locale(old_locale, new_locale);
    }
    if (rc < 0) {
        free(s->output);
    } else {
        *ret_text = s->output;
        *ret_size = s->output_size;
    }
    free(s);
    return rc;
}

int ofr_chat_template_render(const ofr_chat_template *tmpl, const json_t *context, time_t now,
                             char **ret_text, size_t *ret_size, ofr_error *err)
{
    return render(tmpl, &context, 1, now, ret_text, ret_size, err);
}

int ofr_chat_template_render_chat(const ofr_chat_template *tmpl, const ofr_chat_input *input,
                                  time_t now, char **ret_text, size_t *ret_size, ofr_error *err)
{
    if (!json_is_array(input->messages)) {
        return ofr_fail(err, OFR_EINVAL, "%s: the messages must be a JSON array", tmpl->name);
    }
    const char *bos = input->bos_token ? input->bos_token : "";
    const char *eos = input->eos_token ? input->eos_token : "";
    json_t *variables =
        json_pack("{s:O, s:b, s:s, s:s, s:n}", "messages", input->messages, "add_generation_prompt",
                  input->add_generation_prompt, "bos_token", bos, "eos_token", eos, "documents");
    json_t *tools = input->tools ? json_incref((json_t *)(uintptr_t)input->tools) : json_null();
    if (!variables || json_object_set_new(variables, "tools", tools) < 0) {
        json_decref(variables);
        return ofr_fail(err, OFR_ENOMEM, "%s: out of memory, or a token that is not UTF-8",
                        tmpl->name);
    }
    const json_t *objects[2] = {variables, input->extra};
    int rc = render(tmpl, objects, input->extra ? 2 : 1, now, ret_text, ret_size, err);
    json_decref(variables);
    return rc;
}
