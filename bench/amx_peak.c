/* What one core's AMX unit reaches with operands in registers: the ceiling that products of many
 * tokens are compared with. */
#include "bench/amx_peak.h"

#include <immintrin.h>
#include <string.h>

#include "base/clock.h"

enum { ROUNDS = 200000, REPEATS = 7 };

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

static void load_tiles(void)
{
    static const tile_config config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    static const uint8_t zeros[1024];
    _tile_loadconfig(&config);
    _tile_loadd(4, zeros, 64);
    _tile_loadd(5, zeros, 64);
    _tile_loadd(6, zeros, 64);
    _tile_loadd(7, zeros, 64);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

static double int8_round(void)
{
    uint64_t begin = ofr_clock_ns();
    for (int i = 0; i < ROUNDS; i++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 5, 6);
        _tile_dpbusd(2, 4, 7);
        _tile_dpbusd(3, 5, 7);
    }
    return 2.0 * 4 * 16 * 16 * 64 * ROUNDS / (double)(ofr_clock_ns() - begin);
}

static double bf16_round(void)
{
    uint64_t begin = ofr_clock_ns();
    for (int i = 0; i < ROUNDS; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    return 2.0 * 4 * 16 * 16 * 32 * ROUNDS / (double)(ofr_clock_ns() - begin);
}

void bench_amx_peak(double *ret_int8, double *ret_bf16)
{
    *ret_int8 = *ret_bf16 = 0;
    load_tiles();
    for (int i = 0; i < REPEATS; i++) {
        double int8 = int8_round(), bf16 = bf16_round();
        *ret_int8 = int8 > *ret_int8 ? int8 : *ret_int8;
        *ret_bf16 = bf16 > *ret_bf16 ? bf16 : *ret_bf16;
    }
    _tile_release();
}
