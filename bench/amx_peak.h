/* The peak of the AMX unit, for comparison. */
#ifndef OFR_BENCH_AMX_PEAK_H
#define OFR_BENCH_AMX_PEAK_H

/* Giga-operations per second of the calling core (a multiplication and an addition are two), best
 * of a few. Only where the CPU has AMX and the kernel has given permission. */
void bench_amx_peak(double *ret_int8, double *ret_bf16);

#endif
