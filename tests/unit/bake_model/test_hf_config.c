/* config.json: what is read, what defaults mean, what is refused and how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bake_model/hf_config.h"

static const char BASE[] =
    "\"hidden_size\": 64, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"intermediate_size\": 96, \"vocab_size\": 320";

/* Members after BASE; 0 or the code. */
static int parse(const char *members, uint32_t max_context, ofr_hf_config *ret_config,
                 ofr_error *err)
{
    char text[2048];
    snprintf(text, sizeof text, "{%s, %s}", BASE, members);
    return ofr_hf_config_parse(ret_config, "config.json", text, strlen(text), max_context, err);
}

static void accept(const char *members, ofr_hf_config *ret_config)
{
    ofr_error err = {0};
    if (parse(members, 0, ret_config, &err) < 0)
        fail_msg("%s: %s", members, err.text);
}

static void refuse(const char *members, int code, const char *text)
{
    ofr_hf_config config;
    ofr_error err = {0};
    assert_int_equal(parse(members, 0, &config, &err), code);
    if (!strstr(err.text, text))
        fail_msg("'%s' is not in '%s'", text, err.text);
}

static void mistral_has_a_window_in_every_layer(void **state)
{
    (void)state;
    ofr_hf_config c;
    accept("\"model_type\": \"mistral\", \"sliding_window\": 4096, \"rope_theta\": 10000.0", &c);
    assert_int_equal(c.params.sliding_window, 4096);
    for (int i = 0; i < 4; i++)
        assert_int_equal(c.params.layer_flags[i], OFR_LAYER_WINDOWED);
    assert_int_equal(c.params.head_dim, 16);
    assert_false(c.params.tied_embedding);
    ofr_hf_config_done(&c);
    accept("\"model_type\": \"mistral\", \"sliding_window\": null", &c);
    assert_int_equal(c.params.sliding_window, 0);
    ofr_hf_config_done(&c);
}

static void gemma_alternates_and_caps(void **state)
{
    (void)state;
    ofr_hf_config c;
    accept("\"model_type\": \"gemma2\", \"head_dim\": 32", &c);
    assert_int_equal(c.params.head_dim, 32);
    assert_int_equal(c.params.layer_flags[0], OFR_LAYER_WINDOWED);
    assert_int_equal(c.params.layer_flags[1], 0);
    assert_true(c.params.attention_softcap == 50 && c.params.logit_softcap == 30);
    assert_true(c.params.embedding_scale == 8 && c.params.attention_scale == 1.0f / 16);
    assert_true(c.params.tied_embedding && c.params.activation == OFR_ACTIVATION_GELU_TANH);
    ofr_hf_config_done(&c);
    accept(
        "\"model_type\": \"gemma3_text\", \"sliding_window\": 8, \"layer_types\": "
        "[\"sliding_attention\", \"full_attention\", \"full_attention\", \"sliding_attention\"], "
        "\"rope_local_base_freq\": 500.0",
        &c);
    assert_int_equal(c.params.layer_flags[3], OFR_LAYER_WINDOWED);
    assert_int_equal(c.params.layer_flags[1], 0);
    assert_true(c.params.rope_local.base == 500 && c.params.rope.base == 1000000);
    assert_true(c.params.attention_softcap == 0);
    ofr_hf_config_done(&c);
}

static void qwen_smollm_and_granite(void **state)
{
    (void)state;
    ofr_hf_config c;
    accept("\"model_type\": \"qwen2\", \"use_sliding_window\": true, \"sliding_window\": 7, "
           "\"max_window_layers\": 3",
           &c);
    assert_int_equal(c.params.layer_flags[2], 0);
    assert_int_equal(c.params.layer_flags[3], OFR_LAYER_WINDOWED);
    assert_int_equal(c.traits, OFR_HF_QKV_BIAS);
    ofr_hf_config_done(&c);
    accept("\"model_type\": \"qwen3\"", &c);
    assert_int_equal(c.params.head_dim, 128);
    assert_int_equal(c.traits, OFR_HF_HEAD_NORMS);
    ofr_hf_config_done(&c);
    accept("\"model_type\": \"smollm3\"", &c);
    assert_int_equal(c.params.layer_flags[3], OFR_LAYER_UNROTATED); /* every fourth */
    assert_int_equal(c.params.layer_flags[2], 0);
    ofr_hf_config_done(&c);
    accept("\"model_type\": \"granite\", \"logits_scaling\": 4, \"residual_multiplier\": 0.5, "
           "\"embedding_multiplier\": 12, \"attention_multiplier\": 0.25",
           &c);
    assert_true(c.params.logit_scale == 0.25f && c.params.residual_scale == 0.5f);
    assert_true(c.params.embedding_scale == 12 && c.params.attention_scale == 0.25f);
    ofr_hf_config_done(&c);
}

static void rope_scalings(void **state)
{
    (void)state;
    ofr_hf_config c;
    accept(
        "\"model_type\": \"llama\", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
        "\"low_freq_factor\": 1, \"high_freq_factor\": 4, "
        "\"original_max_position_embeddings\": 64}",
        &c);
    assert_int_equal(c.params.rope.scaling, OFR_ROPE_SCALING_LLAMA3);
    assert_int_equal(c.params.rope.original_context, 64);
    ofr_hf_config_done(&c);
    accept("\"model_type\": \"phi3\", \"max_position_embeddings\": 256, "
           "\"original_max_position_embeddings\": 128, \"rope_scaling\": {\"type\": \"longrope\", "
           "\"short_factor\": [1, 2, 3, 4, 5, 6, 7, 8], \"long_factor\": [2, 2, 2, 2, 2, 2, 2, 9]}",
           &c);
    assert_true(c.short_factors[7] == 8 && c.long_factors[7] == 9);
    assert_true(c.params.rope.attention_factor > 1.06f && c.params.rope.attention_factor < 1.08f);
    ofr_hf_config_done(&c);
    refuse("\"model_type\": \"phi3\", \"rope_scaling\": {\"type\": \"longrope\", "
           "\"short_factor\": [1], \"long_factor\": [1]}",
           OFR_EFORMAT, "short_factor");
    refuse("\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"spiral\"}", OFR_EUNSUPPORTED,
           "known: linear, llama3, yarn, longrope");
}

static void others_are_refused_by_name(void **state)
{
    (void)state;
    refuse("\"model_type\": \"mamba\"", OFR_EUNSUPPORTED, "'mamba'");
    refuse("\"model_type\": \"mamba\"", OFR_EUNSUPPORTED,
           "known: gemma2, gemma3_text, granite, llama, mistral, phi3, qwen2, qwen3, smollm3");
    refuse("\"model_type\": \"llama\", \"num_local_experts\": 8", OFR_EUNSUPPORTED, "experts");
    refuse("\"model_type\": \"llama\", \"hidden_act\": \"relu\"", OFR_EUNSUPPORTED, "'relu'");
    refuse("\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"awq\"}",
           OFR_EUNSUPPORTED, "awq");
    refuse("\"model_type\": \"llama\", \"rms_norm_eps\": \"small\"", OFR_EFORMAT, "rms_norm_eps");
    refuse("\"model_type\": \"llama\", \"max_position_embeddings\": -5", OFR_EFORMAT,
           "max_position_embeddings");
    refuse("\"model_type\": \"llama\", \"tie_word_embeddings\": 1", OFR_EFORMAT,
           "tie_word_embeddings");
}

static void a_shorter_context_is_taken(void **state)
{
    (void)state;
    ofr_hf_config c;
    assert_int_equal(
        parse("\"model_type\": \"llama\", \"max_position_embeddings\": 2048", 100, &c, NULL), 0);
    assert_int_equal(c.params.context_length, 100);
    ofr_hf_config_done(&c);
    assert_int_equal(
        parse("\"model_type\": \"llama\", \"max_position_embeddings\": 2048", 9999, &c, NULL), 0);
    assert_int_equal(c.params.context_length, 2048);
    ofr_hf_config_done(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mistral_has_a_window_in_every_layer),
        cmocka_unit_test(gemma_alternates_and_caps),
        cmocka_unit_test(qwen_smollm_and_granite),
        cmocka_unit_test(rope_scalings),
        cmocka_unit_test(others_are_refused_by_name),
        cmocka_unit_test(a_shorter_context_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
