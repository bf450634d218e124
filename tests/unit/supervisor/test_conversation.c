/* Conversations: turns and their dropping, the system message, files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "supervisor/conversation.h"

static void add(ofr_conversation *c, const char *role, const char *text)
{
    assert_int_equal(ofr_conversation_add(c, role, text, strlen(text), NULL), 0);
}

/* Roles' first letters and contents: "s:be kind u:a a:b". */
static void holds(const ofr_conversation *c, const char *expected)
{
    char text[512] = "";
    for (size_t i = 0; i < json_array_size(c->messages); i++) {
        const json_t *m = json_array_get(c->messages, i);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%c:%s", i ? " " : "",
                 json_string_value(json_object_get(m, "role"))[0],
                 json_string_value(json_object_get(m, "content")));
    }
    assert_string_equal(text, expected);
}

static void turns_are_dropped_oldest_first(void **state)
{
    (void)state;
    ofr_conversation c;
    assert_int_equal(ofr_conversation_init(&c, NULL), 0);
    assert_false(ofr_conversation_drop_oldest(&c));
    assert_int_equal(ofr_conversation_set_system(&c, "S", NULL), 0);
    assert_false(ofr_conversation_drop_oldest(&c));
    add(&c, "user", "1");
    assert_false(ofr_conversation_drop_oldest(&c));
    add(&c, "assistant", "2");
    add(&c, "tool", "3");
    add(&c, "assistant", "4");
    add(&c, "user", "5");
    add(&c, "assistant", "6");
    add(&c, "user", "7");
    assert_int_equal(ofr_conversation_turns(&c), 3);
    assert_true(ofr_conversation_drop_oldest(&c));
    holds(&c, "s:S u:5 a:6 u:7");
    assert_true(ofr_conversation_drop_oldest(&c));
    holds(&c, "s:S u:7");
    assert_false(ofr_conversation_drop_oldest(&c));
    holds(&c, "s:S u:7");
    ofr_conversation_done(&c);
}

static void what_stands_before_the_first_user_goes_with_it(void **state)
{
    (void)state;
    ofr_conversation c;
    assert_int_equal(ofr_conversation_init(&c, NULL), 0);
    add(&c, "assistant", "0");
    add(&c, "user", "1");
    add(&c, "user", "2");
    assert_true(ofr_conversation_drop_oldest(&c));
    holds(&c, "u:2");
    ofr_conversation_done(&c);
}

static void the_system_message_is_one_and_first(void **state)
{
    (void)state;
    ofr_conversation c;
    ofr_error err = {0};
    assert_int_equal(ofr_conversation_init(&c, NULL), 0);
    add(&c, "user", "1");
    assert_int_equal(ofr_conversation_set_system(&c, "A", NULL), 0);
    assert_int_equal(ofr_conversation_set_system(&c, "B", NULL), 0);
    holds(&c, "s:B u:1");
    ofr_conversation_reset(&c);
    holds(&c, "s:B");
    assert_int_equal(ofr_conversation_set_system(&c, "\xff", &err), OFR_EUTF8);
    holds(&c, "s:B");
    assert_int_equal(ofr_conversation_set_system(&c, "", NULL), 0);
    holds(&c, "");
    ofr_conversation_remove_last(&c);
    assert_int_equal(ofr_conversation_add(&c, "user", "ab\xc3", 3, &err), OFR_EUTF8);
    assert_non_null(strstr(err.text, "byte offset 2"));
    holds(&c, "");
    ofr_conversation_done(&c);
}

static void file_path(char *path, size_t size)
{
    snprintf(path, size, "%s/conversation_%ld.json", OFR_TEST_BINARY_DIR, (long)getpid());
}

static void saved_and_loaded_again(void **state)
{
    (void)state;
    char path[512];
    struct stat st;
    ofr_conversation c, d;
    ofr_error err = {0};
    file_path(path, sizeof path);
    assert_int_equal(ofr_conversation_init(&c, NULL), 0);
    assert_int_equal(ofr_conversation_init(&d, NULL), 0);
    assert_int_equal(ofr_conversation_set_system(&c, "caf\xc3\xa9 \"x\"", NULL), 0);
    assert_int_equal(ofr_conversation_add(&c, "user", "a\0b\nc", 5, NULL), 0);
    if (ofr_conversation_save(&c, path, "model", &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    if (ofr_conversation_load(&d, path, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(json_equal(c.messages, d.messages));
    unlink(path);
    ofr_conversation_done(&c);
    ofr_conversation_done(&d);
}

static void load_refuses(ofr_conversation *c, const char *content, int code, const char *part)
{
    char path[512];
    ofr_error err = {0};
    file_path(path, sizeof path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(content, file);
    fclose(file);
    int r = ofr_conversation_load(c, path, &err);
    unlink(path);
    assert_int_equal(r, code);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not contain '%s'", err.text, part);
    holds(c, "u:kept");
}

static void bad_files_are_refused(void **state)
{
    (void)state;
    ofr_conversation c;
    ofr_error err = {0};
    assert_int_equal(ofr_conversation_init(&c, NULL), 0);
    add(&c, "user", "kept");
    load_refuses(&c, "", OFR_EFORMAT, ".json:");
    load_refuses(&c, "{\"messages\":[", OFR_EFORMAT, ":1:");
    load_refuses(&c, "{}", OFR_EFORMAT, "no array of messages");
    load_refuses(&c, "3", OFR_EFORMAT, ".json:1:");
    load_refuses(&c, "[3]", OFR_EFORMAT, "message 0 has no role");
    load_refuses(&c, "[{\"role\":\"robot\",\"content\":\"\"}]", OFR_EFORMAT,
                 "message 0 has no role");
    load_refuses(&c, "[{\"role\":\"user\"}]", OFR_EFORMAT, "no text in 'content'");
    load_refuses(&c,
                 "[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"\"}]",
                 OFR_EFORMAT, "only the first may be");
    assert_int_equal(ofr_conversation_load(&c, "/nonexistent/x.json", &err), OFR_ENOENT);
    ofr_conversation_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_are_dropped_oldest_first),
        cmocka_unit_test(what_stands_before_the_first_user_goes_with_it),
        cmocka_unit_test(the_system_message_is_one_and_first),
        cmocka_unit_test(saved_and_loaded_again),
        cmocka_unit_test(bad_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
