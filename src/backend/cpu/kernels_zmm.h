/* What all 512-bit kernel files share. The including file defines INLINE before. */
#ifndef OFR_BACKEND_CPU_KERNELS_ZMM_H
#define OFR_BACKEND_CPU_KERNELS_ZMM_H

#include <immintrin.h>
#include <stddef.h>

#include "backend/cpu/kernels.h"

/* The first n lanes. */
INLINE __mmask16 tail16(size_t n)
{
    return (__mmask16)(n >= 16 ? 0xffffU : (1U << n) - 1);
}

/* A group of activations in -127 .. 127, in 32-bit lanes; returns its scale. */
INLINE float quantize_group(const float *x, __m512i ret_q[2])
{
    __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
    float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(x0), _mm512_abs_ps(x1)));
    /* |x| <= top: rounding cannot leave -127 .. 127 unless 127 / top overflows. */
    __m512 inverse = _mm512_set1_ps(top > OFR_CPU_SCALE_TINY ? 127 / top : 0);
    ret_q[0] = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    ret_q[1] = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
    return top / 127;
}

/* r[i] = lane i of every r. By shuffles: gathers take several times as long. */
INLINE void transpose16(__m512i r[16])
{
    __m512i t[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) { /* 4 x 4 within each 128 bits */
        __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
        __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* then 4 x 4 of those */
        __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
        __m512i b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
        __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
        __m512i d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
        r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

#endif
