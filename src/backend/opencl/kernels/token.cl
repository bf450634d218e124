/* One token through all layers, and the head, in one launch: for devices that run all work-groups
 * of a launch at once. The steps are those of dot.cl and attention.cl. What a step hands on carries
 * its tag, and the next one's work-groups look at it until it does: nobody waits for all, nothing
 * needs a fence, and the first weights of the next step are on their way meanwhile. On devices
 * other than NVIDIA's there is one work-group, whose barriers order everything.
 *
 * Who overwrites a record has read one that all its readers' results went into, so that no reader
 * still looks: each reader of a step's input makes a part of the step's output, and every step but
 * attention, whose tasks read what they alone need, reads all of its input.
 *
 * What many read, records, there are COPIES of, and a warp looks at one packet until that is there:
 * polls of all work-groups for all packets of the same lines hold each other and the packets up. Of
 * the MLP's tiles some work-groups have one more than others, who then make half of it. A launch
 * may be cut in two: the second goes on with the hidden state that the first left.
 *
 * ITEMS work-items in WARPS warps (of one work-item where the device has none of 32), one
 * work-group per compute unit. A matrix is cut into tiles of 32 rows; tile t belongs to work-group
 * t % groups. Where no units of 32 results are needed, work-groups take 16 rows or a multiple. A
 * warp makes TEAM_ROWS rows at once, a lane every WARP-th piece of 16 bytes; DEPTH pieces of each
 * row are loaded ahead.
 *
 * HEAD_DIM, HEADS as in attention.cl; SCRATCH_BYTES of local memory for the input of a step;
 * WAVES: the most tiles of a work-group whose results are kept; GATHER: heads whose warps' sums are
 * put together at once. HAS_MINIMA, SOFTCAP: where the model has them. WIDE_GROUPS: where no group
 * of its weights is of less than four pieces. LOADS 1: loads that leave the first-level cache alone
 * (NVIDIA).
 *
 * Compiled after token_exchange.cl, token_products.cl, token_attention.cl. */

/* n_layers layers of the plan from first_layer on, then the head, whose matrix follows them. flags:
 * 1 with the head, 2 a rehearsal, of a token that sees itself only and must not touch anybody's KV,
 * 4 the last layer's hidden state is wanted, 8 new rows of K and V too. first_norm: weight of the
 * first norm. tag: of what the first step reads; launches never use a tag twice until they all are
 * through. */
kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1))) void token_layers(
    WINDOWS, global const uint *plan, uint n_layers, uint flags, uint tag,
    volatile global uint *sync, global const float *vectors, uint first_norm,
    global const uint *pass, uint d_model, uint d_ff, uint n_kv_heads, uint vocab, float epsilon,
    float factor, float residual_scale, global half *kv, ulong slot_stride, global half *rows,
    global float *hidden, global float *logits, global uint2 *heads, global uint2 *partial,
    global uint4 *input, global uint4 *attended, global uint4 *gated, global uint2 *helped,
    uint first_layer)
{
    local uint4 scratch[SCRATCH_BYTES / 16];
    local float4 sums_of_warps[(WARPS + 3) / 4];
    local float made[WAVES * 64], turns[4 * TURNS];
    local uint4 new_key[HEAD_DIM / 4]; /* K, V as halves */
    local step_plan step_place;
    uint item = get_local_id(0), lane = item % LANES, warp = item / LANES;
    uint4 token = flags & 2 ? (uint4)0 : pass_token(pass, 0);
    token_state state = {hidden,  logits, heads, helped,  input,          attended,        gated,
                         vectors, sync,   tag,   epsilon, residual_scale, (flags & 4) != 0};
    token_sizes sizes = {d_model, d_ff,     n_kv_heads * HEADS * HEAD_DIM, n_kv_heads * HEAD_DIM,
                         vocab,   n_layers, n_layers * STEPS + (flags & 1)};
    rows += (ulong)first_layer * 2 * n_kv_heads * HEAD_DIM;
    token_place place_of_token = {token.y,     token.z,          n_kv_heads, factor,
                                  slot_stride, (flags & 2) != 0, kv,         flags & 8 ? rows : 0,
                                  partial};
    if (first_layer > 0) {
        first_norm = plan[(first_layer - 1) * PLAN_LAYER_WORDS + PLAN_NORM_DOWN];
        plan += first_layer * PLAN_LAYER_WORDS;
    }
    for (uint i = item; i < PLAN_LAYER_WORDS; i += ITEMS) {
        step_place.words[0][i] = plan[i];
    }
    for (uint step = item; step <= STEP_HEAD; step += ITEMS) {
        step_place.kinds[step] = make_kind(&sizes, step);
    }
    for (uint t = 0; t < 2; t++) { /* RoPE's tables: of one token, sines follow cosines */
        uint at = pass[PASS_COSINES_AT + 2 * t];
        uint n = flags & 2 ? 0 : min(pass[PASS_SINES_AT + 2 * t] - at, (uint)TURNS);
        for (uint i = item; i < n; i += ITEMS) {
            turns[2 * t * TURNS + i] = as_float(pass[at + i]);
            turns[(2 * t + 1) * TURNS + i] = as_float(pass[at + n + i]);
        }
    }
    meet(CLK_LOCAL_MEM_FENCE);
    make_views(WINDOWS_PASSED, 0, &step_place);
    meet(CLK_LOCAL_MEM_FENCE);
    float old = 0;
    for (uint w = warp; w < step_place.kinds[STEP_DOWN].last; w += WARPS) { /* the first input */
        uint tile = get_group_id(0) + w * get_num_groups(0);
        global const float *weights = vectors + first_norm + tile * 32;
        old = hidden[tile * 32 + lane];
        for (uint i = 0; LANES == 1 && i < 32; i++) {
            made[i] = hidden[tile * 32 + i];
        }
        make_unit(old, made, weights[lane], weights, true, lane, tile, d_model / 32, tag, input);
    }
#ifndef OFR_NVIDIA
    meet(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
#endif
    for (uint s = 0; s < sizes.steps; s++) {
        uint step = step_of(&sizes, s), start = cycles(), ready;
        if (step == STEP_ATTENTION) {
            global const uint *following = plan + (s / STEPS + 1) * PLAN_LAYER_WORDS;
            ready =
                attend(step_place.words[s / STEPS % 2], s, &place_of_token, &sizes, &state, turns,
                       (local float *)scratch, (local half *)new_key, following, &step_place);
            make_views(WINDOWS_PASSED, s / STEPS + 1, &step_place); /* for after the next barrier */
        } else {
            ready = multiply_step(&sizes, &step_place, s, &state, &old, scratch, made,
                                  (local float *)sums_of_warps);
        }
        note_cycles(sync, step, start, ready);
    }
}
