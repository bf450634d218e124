/* Printing the executive's status, and the live view of it. */
#include "executive_shard/status_command.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "executive_shard/control.h"

enum { PERIOD_MS = 1000 };

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

/* "63.0 C" for a figure that is known, else "-". */
static const char *figure(const json_t *object, const char *key, double scale, const char *format,
                          char *buffer, size_t size)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value))
        return "-";
    snprintf(buffer, size, format, json_number_value(value) * scale);
    return buffer;
}

static void print_workers(const json_t *status, const json_t *before, FILE *out)
{
    const json_t *workers = json_object_get(status, "workers");
    const json_t *old_workers = json_object_get(before, "workers");
    double seconds =
        before ? (double)(number_of(status, "uptime_ms") - number_of(before, "uptime_ms")) / 1000.0
               : 0;
    size_t i;
    const json_t *worker;
    json_array_foreach(workers, i, worker)
    {
        fprintf(out,
                "worker     %s: %s, pid %lld, %lld jobs, %lld tokens (%lld generated), %lld "
                "restarts, %lld MiB\n",
                text_of(worker, "name"), text_of(worker, "state"), number_of(worker, "pid"),
                number_of(worker, "jobs"), number_of(worker, "tokens"),
                number_of(worker, "decode_tokens"), number_of(worker, "restarts"),
                number_of(worker, "resident_bytes") >> 20);
        if (text_of(worker, "device")[0])
            fprintf(out, "           %s\n", text_of(worker, "device"));
        if (text_of(worker, "failure")[0])
            fprintf(out, "           last failure: %s\n", text_of(worker, "failure"));
        const json_t *old = json_array_get(old_workers, i);
        long long tokens = number_of(worker, "tokens") - number_of(old, "tokens");
        long long decoded = number_of(worker, "decode_tokens") - number_of(old, "decode_tokens");
        if (old && seconds > 0 && tokens >= 0 && decoded >= 0)
            fprintf(out, "           now: prefill %.1f tok/s, decode %.1f tok/s\n",
                    (double)(tokens - decoded) / seconds, (double)decoded / seconds);
    }
}

static void print_devices(const json_t *health, FILE *out)
{
    const json_t *devices = json_object_get(health, "devices");
    size_t i;
    const json_t *device;
    if (json_array_size(devices) > 0)
        fprintf(out, "%-10s %5s %8s %9s %8s %10s  %s\n", "device", "busy", "temp", "clock", "power",
                "memory", "condition");
    json_array_foreach(devices, i, device)
    {
        char cells[5][32];
        fprintf(out, "%-10s %5s %8s %9s %8s %10s  %s%s%s\n", text_of(device, "name"),
                figure(device, "utilisation", 100, "%.0f %%", cells[0], 32),
                figure(device, "temperature_c", 1, "%.0f C", cells[1], 32),
                figure(device, "frequency_mhz", 1, "%.0f MHz", cells[2], 32),
                figure(device, "power_w", 1, "%.1f W", cells[3], 32),
                figure(device, "memory_used_bytes", 1.0 / (1 << 20), "%.0f MiB", cells[4], 32),
                text_of(device, "condition"), text_of(device, "reason")[0] ? ": " : "",
                text_of(device, "reason"));
    }
}

void ofr_status_print(const json_t *status, const json_t *before, FILE *out)
{
    const json_t *client = json_object_get(status, "client");
    const json_t *health = json_object_get(status, "health");
    const json_t *machine = json_object_get(health, "system");
    char cell[32];
    fprintf(out, "instance   %s (pid %lld, up %lld s)\n", text_of(status, "instance"),
            number_of(status, "pid"), number_of(status, "uptime_ms") / 1000);
    fprintf(out, "package    %s (%s)\n", text_of(status, "package"), text_of(status, "model"));
    fprintf(out, "plan       %s\n", text_of(status, "plan"));
    fprintf(out, "context    %lld tokens, %lld slots, KV %lld of %lld MiB in use\n",
            number_of(status, "context"), number_of(status, "n_slots"),
            number_of(status, "kv_committed_bytes") >> 20, number_of(status, "kv_bytes") >> 20);
    print_workers(status, before, out);
    fprintf(out, "resident   %lld MiB, %lld bytes copied between devices\n",
            number_of(status, "resident_bytes") >> 20, number_of(status, "handoff_bytes_copied"));
    if (json_is_object(client))
        fprintf(out, "client     %s (pid %lld)\n", text_of(client, "program"),
                number_of(client, "pid"));
    else
        fprintf(out, "client     none\n");
    fprintf(out, "memory     %lld of %lld MiB available, waited for %s of the time%s\n",
            number_of(machine, "memory_available_bytes") >> 20,
            number_of(machine, "memory_total_bytes") >> 20,
            figure(machine, "memory_pressure_percent", 1, "%.1f %%", cell, sizeof cell),
            json_is_true(json_object_get(machine, "memory_short")) ? " (SHORT)" : "");
    fprintf(out, "/dev/shm   %lld of %lld MiB free%s\n", number_of(machine, "shm_free_bytes") >> 20,
            number_of(machine, "shm_total_bytes") >> 20,
            json_is_true(json_object_get(machine, "shm_short")) ? " (SHORT)" : "");
    fprintf(
        out, "energy     %s\n",
        figure(health, "energy_per_token_j", 1, "%.2f J per generated token", cell, sizeof cell));
    print_devices(health, out);
}

static int ask(int fd, json_t **ret_status, ofr_error *err)
{
    json_t *request = json_pack("{s:s}", "op", "status");
    int r = ofr_control_call(fd, request, ret_status, err);
    json_decref(request);
    return r;
}

static void show(const json_t *status, const json_t *before, bool json, bool terminal, bool watch)
{
    if (json) {
        json_dumpf(status, stdout, watch ? JSON_COMPACT : JSON_INDENT(2));
        putchar('\n');
    } else {
        /* Home, then clear to the end: a frame is drawn over the one before without flicker. */
        if (terminal)
            fputs("\x1b[H\x1b[J", stdout);
        ofr_status_print(status, before, stdout);
        if (watch && !terminal)
            putchar('\n');
    }
    fflush(stdout);
}

/* False: the person asked to end it. */
static bool wait_period(int signals, bool keys)
{
    struct pollfd polled[2] = {{.fd = signals, .events = POLLIN},
                               {.fd = keys ? STDIN_FILENO : -1, .events = POLLIN}};
    int n = poll(polled, 2, PERIOD_MS);
    if (n < 0)
        return errno == EINTR;
    if (polled[0].revents)
        return false;
    char key;
    return !(polled[1].revents && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q'));
}

static int watch_status(int fd, bool json, ofr_error *err)
{
    bool terminal = !json && isatty(STDOUT_FILENO);
    bool keys = terminal && isatty(STDIN_FILENO);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    struct termios normal;
    if (keys && tcgetattr(STDIN_FILENO, &normal) == 0) {
        struct termios raw = normal;
        raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    } else {
        keys = false;
    }
    if (terminal)
        fputs("\x1b[?1049h\x1b[?25l", stdout); /* a screen of its own, no cursor */
    json_t *before = NULL;
    json_t *status = NULL;
    int r;
    while ((r = ask(fd, &status, err)) == 0) {
        show(status, before, json, terminal, true);
        json_decref(before);
        before = status;
        if (ferror(stdout) || !wait_period(signals, keys))
            break;
    }
    json_decref(before);
    if (terminal) {
        fputs("\x1b[?25h\x1b[?1049l", stdout);
        fflush(stdout);
    }
    if (keys)
        tcsetattr(STDIN_FILENO, TCSANOW, &normal);
    close(signals);
    return r;
}

int ofr_status_command(int fd, bool json, bool watch)
{
    ofr_error err = {0};
    json_t *status = NULL;
    int r = watch ? watch_status(fd, json, &err) : ask(fd, &status, &err);
    if (r == 0 && !watch)
        show(status, NULL, json, false, false);
    json_decref(status);
    if (r < 0)
        fprintf(stderr, "executive_shard: %s\n", err.text);
    return r < 0 ? OFR_EXIT_FAILURE : OFR_EXIT_OK;
}
