/* The table of devices, and what their sources answered. */
#include "executive_shard/devices_command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "device/device.h"

enum { COLUMNS = 7, CELL_SIZE = 160 };

static void describe_kind(const ofr_device *d, char cell[CELL_SIZE])
{
    static const char *const names[] = {"CPU", "NPU", "integrated GPU", "discrete GPU"};
    snprintf(cell, CELL_SIZE, "%s", names[d->kind]);
}

static void describe_driver(const ofr_device *d, char cell[CELL_SIZE])
{
    snprintf(cell, CELL_SIZE, "%s%s%s", d->kernel_driver, d->driver_version[0] ? " / " : "",
             d->driver_version);
    if (!cell[0])
        snprintf(cell, CELL_SIZE, "%s", d->opencl_version[0] ? d->opencl_version : "-");
}

static void describe_memory(const ofr_device *d, char cell[CELL_SIZE])
{
    if (d->memory_bytes)
        snprintf(cell, CELL_SIZE, "%.1f GiB", (double)d->memory_bytes / (1 << 30));
    else
        snprintf(cell, CELL_SIZE, "shared");
}

static void describe_plans(const ofr_device *d, char cell[CELL_SIZE])
{
    snprintf(cell, CELL_SIZE, "%s%s%s%s%s", d->kind == OFR_DEVICE_KIND_CPU ? "cpu" : "",
             d->kind == OFR_DEVICE_KIND_CPU && d->openvino[0] ? ", " : "", d->openvino,
             (d->kind == OFR_DEVICE_KIND_CPU || d->openvino[0]) && d->opencl[0] ? ", " : "",
             d->opencl);
    if (!cell[0])
        snprintf(cell, CELL_SIZE, "- (no runtime serves it)");
}

static void fill_row(const ofr_device *d, char row[COLUMNS][CELL_SIZE])
{
    char pci[OFR_PCI_TEXT_SIZE];
    ofr_pci_format(&d->pci, pci);
    snprintf(row[0], CELL_SIZE, "%s", d->name);
    describe_kind(d, row[1]);
    snprintf(row[2], CELL_SIZE, "%s", d->model);
    snprintf(row[3], CELL_SIZE, "%s", pci[0] ? pci : "-");
    describe_driver(d, row[4]);
    describe_memory(d, row[5]);
    describe_plans(d, row[6]);
}

static void print_table(const ofr_device_list *list)
{
    static const char *const titles[COLUMNS] = {"name",   "kind",   "model",   "PCI",
                                                "driver", "memory", "in plans"};
    char(*rows)[COLUMNS][CELL_SIZE] = calloc(list->count + 1, sizeof *rows);
    if (!rows)
        return;
    size_t widths[COLUMNS] = {0};
    for (size_t c = 0; c < COLUMNS; c++)
        snprintf(rows[0][c], CELL_SIZE, "%s", titles[c]);
    for (size_t i = 0; i < list->count; i++)
        fill_row(&list->devices[i], rows[i + 1]);
    for (size_t i = 0; i <= list->count; i++)
        for (size_t c = 0; c < COLUMNS; c++)
            if (strlen(rows[i][c]) > widths[c])
                widths[c] = strlen(rows[i][c]);
    for (size_t i = 0; i <= list->count; i++)
        for (size_t c = 0; c < COLUMNS; c++)
            printf("%-*s%s", c + 1 < COLUMNS ? (int)widths[c] : 0, rows[i][c],
                   c + 1 < COLUMNS ? "  " : "\n");
    free(rows);
}

static void print_source(const char *name, const ofr_device_source *source)
{
    if (source->state == OFR_SOURCE_STATE_OK)
        printf("%-10s  %s, %u device%s\n", name, source->version, source->n_devices,
               source->n_devices == 1 ? "" : "s");
    else
        printf("%-10s  %s: %s\n", name, ofr_source_state_name(source->state), source->text);
}

int ofr_devices_command(const char *root, bool json)
{
    ofr_device_options options = {.root = root};
    ofr_error err = {0};
    ofr_device_list *list = calloc(1, sizeof *list);
    if (!list || ofr_devices_discover(&options, list, &err) < 0) {
        fprintf(stderr, "executive_shard: %s\n", list ? err.text : "no memory");
        free(list);
        return OFR_EXIT_FAILURE;
    }
    if (json) {
        json_t *object = ofr_devices_to_json(list);
        json_dumpf(object, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(object);
    } else {
        print_table(list);
        putchar('\n');
        print_source("Level Zero", &list->level_zero);
        print_source("OpenCL", &list->opencl);
        print_source("OpenVINO", &list->openvino);
    }
    free(list);
    return OFR_EXIT_OK;
}
