/* The machine that the fake driver plays, read from the text file named by OFFERING_FAKE_ZE.
 *
 *     driver gpu                    a section; libfake_ze_gpu.so plays those named "gpu"
 *     version 1 3 29735             major minor build
 *     init crash                    ok (default) | error | crash | hang, in zeInit and
 * zeInitDrivers enumerate crash               likewise in zeDeviceGet sysman error likewise: every
 * sysman query fails device gpu integrated         or: device gpu discrete, device npu name
 * Intel(R) Arc(TM) Graphics ids 0x8086 0x7d55 pci 0000:00:02.0 clock 2250                    MHz
 *     memory 16225243136            bytes
 *     queues 1 1                    compute, copy
 *     temperature 45 60 95          a series: each query takes the next value, the last one stays
 *     frequency 2250 1100           likewise; MHz
 *     throttle 0 8                  likewise; flags of zes_freq_throttle_reason_flag_t
 *     utilisation 0.1 0.9           likewise; between two queries one second passes
 *     power 12 30                   likewise; watts
 *     memory_used 1e9 15e9          likewise; bytes
 * Lines that begin with # are comments. */
#ifndef FAKE_ZE_DESCRIPTION_H
#define FAKE_ZE_DESCRIPTION_H

#include <stdbool.h>
#include <stdint.h>

enum { SERIES_MAX = 32, FAKE_DEVICES_MAX = 8 };

enum behaviour { BEHAVIOUR_OK, BEHAVIOUR_ERROR, BEHAVIOUR_CRASH, BEHAVIOUR_HANG };

struct series {
    double values[SERIES_MAX];
    unsigned count, next;
};

struct fake_device {
    bool npu, integrated;
    char name[128];
    uint32_t vendor, device;
    uint32_t domain, bus, slot, function;
    uint32_t clock_mhz;
    uint64_t memory_bytes;
    uint32_t compute_queues, copy_queues;
    struct series temperature, frequency, throttle, utilisation, power, memory_used;
    uint64_t active_us, energy_uj, engine_us, power_us; /* counters so far */
};

struct fake_driver {
    bool found; /* there is a section for this library */
    uint32_t version;
    enum behaviour init, enumerate, sysman;
    struct fake_device devices[FAKE_DEVICES_MAX];
    unsigned count;
};

/* Reads the sections of driver `name`; an unreadable or malformed file is a driver without devices.
 */
void fake_description_read(const char *path, const char *name, struct fake_driver *driver);
/* The next value; false for an empty series. */
bool fake_series_next(struct series *series, double *ret_value);

#endif
