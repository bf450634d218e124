/* Reading the description of a machine. */
#include "description.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum behaviour parse_behaviour(const char *text)
{
    return strncmp(text, "error", 5) == 0   ? BEHAVIOUR_ERROR
           : strncmp(text, "crash", 5) == 0 ? BEHAVIOUR_CRASH
           : strncmp(text, "hang", 4) == 0  ? BEHAVIOUR_HANG
                                            : BEHAVIOUR_OK;
}

static void parse_series(const char *text, struct series *series)
{
    char *end;
    for (;;) {
        double value = strtod(text, &end);
        if (end == text || series->count == SERIES_MAX)
            return;
        series->values[series->count++] = value;
        text = end;
    }
}

bool fake_series_next(struct series *series, double *ret_value)
{
    if (series->count == 0)
        return false;
    *ret_value = series->values[series->next];
    if (series->next + 1 < series->count)
        series->next++;
    return true;
}

static void parse_device_line(const char *key, const char *text, struct fake_device *d)
{
    if (strcmp(key, "name") == 0)
        snprintf(d->name, sizeof d->name, "%s", text);
    else if (strcmp(key, "ids") == 0)
        sscanf(text, "%x %x", &d->vendor, &d->device);
    else if (strcmp(key, "pci") == 0)
        sscanf(text, "%x:%x:%x.%x", &d->domain, &d->bus, &d->slot, &d->function);
    else if (strcmp(key, "clock") == 0)
        d->clock_mhz = (uint32_t)strtoul(text, NULL, 10);
    else if (strcmp(key, "memory") == 0)
        d->memory_bytes = strtoull(text, NULL, 10);
    else if (strcmp(key, "queues") == 0)
        sscanf(text, "%u %u", &d->compute_queues, &d->copy_queues);
    else if (strcmp(key, "temperature") == 0)
        parse_series(text, &d->temperature);
    else if (strcmp(key, "frequency") == 0)
        parse_series(text, &d->frequency);
    else if (strcmp(key, "throttle") == 0)
        parse_series(text, &d->throttle);
    else if (strcmp(key, "utilisation") == 0)
        parse_series(text, &d->utilisation);
    else if (strcmp(key, "power") == 0)
        parse_series(text, &d->power);
    else if (strcmp(key, "memory_used") == 0)
        parse_series(text, &d->memory_used);
}

static void parse_driver_line(const char *key, const char *text, struct fake_driver *driver)
{
    unsigned major = 0;
    unsigned minor = 0;
    unsigned build = 0;
    if (strcmp(key, "version") == 0 && sscanf(text, "%u %u %u", &major, &minor, &build) == 3)
        driver->version = major << 24 | minor << 16 | build;
    else if (strcmp(key, "init") == 0)
        driver->init = parse_behaviour(text);
    else if (strcmp(key, "enumerate") == 0)
        driver->enumerate = parse_behaviour(text);
    else if (strcmp(key, "sysman") == 0)
        driver->sysman = parse_behaviour(text);
}

void fake_description_read(const char *path, const char *name, struct fake_driver *driver)
{
    char line[512];
    FILE *file = path ? fopen(path, "re") : NULL;
    bool ours = false;
    struct fake_device *device = NULL;
    while (file && fgets(line, sizeof line, file)) {
        char key[32] = "";
        int used = 0;
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '#' || sscanf(line, "%31s %n", key, &used) < 1)
            continue;
        const char *text = line + used;
        if (strcmp(key, "driver") == 0) {
            ours = strcmp(text, name) == 0;
            driver->found |= ours;
            device = NULL;
        } else if (ours && strcmp(key, "device") == 0) {
            if (driver->count == FAKE_DEVICES_MAX)
                break;
            device = &driver->devices[driver->count++];
            device->npu = strncmp(text, "npu", 3) == 0;
            device->integrated = device->npu || strstr(text, "integrated") != NULL;
        } else if (ours && device) {
            parse_device_line(key, text, device);
        } else if (ours) {
            parse_driver_line(key, text, driver);
        }
    }
    if (file)
        fclose(file);
}
