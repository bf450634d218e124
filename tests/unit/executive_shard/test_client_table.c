/* What the executive says of a session, and the routes that come of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "executive_shard/client_internal.h"

static int read_table(const char *plan, const char *workers, ofr_client_table *table,
                      ofr_error *err)
{
    json_t *session = json_pack("{s:s, s:i, s:o}", "plan", plan, "n_layers", 30, "workers",
                                json_loads(workers, 0, NULL));
    int r = ofr_client_table_read(table, session, 1024, err);
    json_decref(session);
    return r;
}

static const char three[] =
    "[{\"name\":\"cpu\",\"chunk\":512},{\"name\":\"openvino:NPU\",\"chunk\":"
    "1024},{\"name\":\"opencl:0\",\"chunk\":0}]";

static void routes_follow_the_plan(void **state)
{
    (void)state;
    ofr_client_table table;
    ofr_client_route route;
    ofr_error err = {0};
    assert_int_equal(read_table("prefill=openvino:NPU,decode=openvino:NPU@0-1,opencl:0@1-29,"
                                "openvino:NPU@29-",
                                three, &table, &err),
                     0);
    ofr_client_table_route(&table, 40, &route);
    assert_int_equal(route.n_stages, 1);
    assert_int_equal(route.stages[0].worker, 1);
    assert_int_equal(route.stages[0].layer_end, 30);
    assert_int_equal(route.chunk, 1024);
    ofr_client_table_route(&table, 0, &route);
    assert_int_equal(route.n_stages, 3);
    assert_int_equal(route.stages[1].worker, 2);
    assert_int_equal(route.stages[1].layer_begin, 1);
    assert_true(route.stages[1].in_place);
    assert_false(route.stages[2].in_place); /* one layer of a static graph */
    assert_int_equal(route.chunk, 256);     /* small pieces, so that devices overlap */
}

static void longer_prompts_go_their_own_way(void **state)
{
    (void)state;
    ofr_client_table table;
    ofr_client_route route;
    ofr_error err = {0};
    assert_int_equal(
        read_table("prefill=cpu,prefill[256-]=openvino:NPU,decode=cpu", three, &table, &err), 0);
    ofr_client_table_route(&table, 255, &route);
    assert_int_equal(route.stages[0].worker, 0);
    assert_int_equal(route.chunk, 512);
    ofr_client_table_route(&table, 256, &route);
    assert_int_equal(route.stages[0].worker, 1);
}

static void what_cannot_be_is_refused(void **state)
{
    (void)state;
    ofr_client_table table;
    ofr_error err = {0};
    assert_int_equal(read_table("cpu", "[]", &table, &err), OFR_EPROTOCOL);
    assert_int_equal(read_table("auto", three, &table, &err), OFR_EPROTOCOL);
    assert_int_equal(read_table("cpu", "[{\"name\":7,\"chunk\":1}]", &table, &err), OFR_EPROTOCOL);
    assert_int_equal(read_table("opencl:1", three, &table, &err), OFR_ENOENT);
    assert_int_equal(read_table("cpu@0-40", three, &table, &err), OFR_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_follow_the_plan),
        cmocka_unit_test(longer_prompts_go_their_own_way),
        cmocka_unit_test(what_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
