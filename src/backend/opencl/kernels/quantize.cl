/* Rows of fp32 to records (common.cl); one work-item per unit of 32. */
kernel void quantize(global const float *x, uint columns, global const float *vectors, uint norm,
                     global char *values, global float *scales, global float *squares)
{
    uint u = get_global_id(0), units = columns / 32;
    ulong unit = (ulong)get_global_id(1) * units + u;
    if (u >= units) {
        return;
    }
    float v[32], largest = 0, sum = 0;
    for (uint i = 0; i < 32; i++) {
        float own = x[unit * 32 + i];
        sum += own * own;
        v[i] = norm != NO_VECTOR ? own * vectors[norm + u * 32 + i] : own;
        largest = fmax(largest, fabs(v[i]));
    }
    float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    int total = 0;
    for (uint i = 0; i < 32; i++) {
        char q = convert_char_sat_rte(v[i] * inverse);
        values[unit * 32 + byte_place(i)] = q;
        total += q;
    }
    scales[2 * unit] = largest / 127.0f;
    scales[2 * unit + 1] = 8.0f * (largest / 127.0f) * (float)total;
    squares[unit] = sum;
}
