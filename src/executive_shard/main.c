/* executive_shard: argv to run, status, devices, doctor and stop. */
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/options.h"
#include "executive_shard/control.h"
#include "executive_shard/devices_command.h"
#include "executive_shard/doctor.h"
#include "executive_shard/executive.h"
#include "executive_shard/instance.h"
#include "executive_shard/session_abi.h"
#include "executive_shard/status_command.h"

struct options {
    const char *model, *instance, *plan, *first_plan, *log_level, *root, *cache_dir;
    int64_t context, slots, threads, failure_window, idle_worker, cache_mib, worker_mib;
    bool foreground, json, watch, help, version;
};

static int fail(const ofr_error *err)
{
    fprintf(stderr, "executive_shard: %s\n", err->text);
    return err->code == OFR_EINVAL ? OFR_EXIT_USAGE : OFR_EXIT_FAILURE;
}

/* In the foreground -1; else the pipe that the starting process waits on. */
static void say_ready(void *user, const char *device)
{
    int *pipe_fd = user;
    ofr_log(OFR_LOG_LEVEL_INFO, "serving on %s", device);
    if (*pipe_fd >= 0) {
        ssize_t written = write(*pipe_fd, "+", 1);
        (void)written;
        close(*pipe_fd);
        *pipe_fd = -1;
    }
}

static int serve(const ofr_executive_options *options, int pipe_fd)
{
    ofr_error err = {0};
    int r = ofr_executive_run(options, say_ready, &pipe_fd, &err);
    if (r == 0)
        return OFR_EXIT_OK;
    if (pipe_fd >= 0) {
        ssize_t written = write(pipe_fd, err.text, strlen(err.text));
        (void)written;
    } else {
        fail(&err);
    }
    return OFR_EXIT_FAILURE;
}

static void redirect_to_log(const char *instance)
{
    int directory_fd = -1;
    char path[OFR_RUNTIME_PATH_SIZE];
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log = -1;
    if (ofr_runtime_dir_open(instance, true, &directory_fd, path, NULL) == 0) {
        log = openat(directory_fd, "executive.log",
                     O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
        close(directory_fd);
    }
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    dup2(log >= 0 ? log : null, STDERR_FILENO);
    close(null);
    if (log >= 0)
        close(log);
}

/* Returns in the starting process once the daemon serves or has failed. */
static int daemonize(const ofr_executive_options *options)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) {
        perror("executive_shard: pipe");
        return OFR_EXIT_FAILURE;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        setsid();
        redirect_to_log(options->instance);
        exit(serve(options, ends[1]));
    }
    close(ends[1]);
    char text[OFR_ERROR_TEXT_MAX] = "";
    size_t used = 0;
    ssize_t n;
    /* Not to the end of the pipe where all is well: the worker holds a copy of the other end. */
    while (text[0] != '+' && used < sizeof text - 1 &&
           (n = read(ends[0], text + used, sizeof text - 1 - used)) > 0)
        used += (size_t)n;
    close(ends[0]);
    if (text[0] == '+') {
        fprintf(stderr,
                "executive_shard: serving as '%s' (pid %d); 'executive_shard stop' ends it\n",
                options->instance, (int)pid);
        return OFR_EXIT_OK;
    }
    fprintf(stderr, "executive_shard: %s\n", used ? text : "the daemon ended before it served");
    return OFR_EXIT_FAILURE;
}

static int command_run(const struct options *o)
{
    char instance[OFR_INSTANCE_NAME_SIZE];
    ofr_error err = {0};
    const char *model = o->model ? o->model : OFR_DEFAULT_PACKAGE;
    int r = ofr_instance_resolve(model, o->instance, instance, &err);
    pid_t holder = 0;
    if (r == 0)
        r = ofr_instance_holder(instance, &holder, &err);
    if (r < 0)
        return fail(&err);
    if (holder > 0) {
        fprintf(stderr, "executive_shard: '%s' is served already (pid %d)\n", instance,
                (int)holder);
        return OFR_EXIT_OK;
    }
    ofr_executive_options options = {.package_directory = model,
                                     .instance = instance,
                                     .plan = o->plan,
                                     .first_plan = o->first_plan,
                                     .threads = (uint32_t)o->threads,
                                     .context = (uint32_t)o->context,
                                     .n_slots = (uint32_t)o->slots,
                                     .cache_directory = o->cache_dir,
                                     .cache_bytes = (uint64_t)o->cache_mib << 20,
                                     .root = o->root,
                                     .failure_window_s = (uint32_t)o->failure_window,
                                     .idle_worker_s = (uint32_t)o->idle_worker,
                                     .worker_memory_bytes = (uint64_t)o->worker_mib << 20};
    return o->foreground ? serve(&options, -1) : daemonize(&options);
}

static int connect_executive(const struct options *o, int *ret_fd, ofr_error *err)
{
    char instance[OFR_INSTANCE_NAME_SIZE];
    char path[OFR_RUNTIME_PATH_SIZE];
    int directory_fd = -1;
    pid_t pid = 0;
    int r = ofr_instance_resolve(o->model, o->instance, instance, err);
    if (r == 0)
        r = ofr_runtime_dir_open(instance, false, &directory_fd, path, err);
    if (r == 0) {
        r = ofr_control_connect(directory_fd, ret_fd, &pid, err);
        close(directory_fd);
    }
    return r < 0 ? ofr_error_prefix(err, r, "%s", "no executive answers") : 0;
}

static int command_stop(const struct options *o)
{
    ofr_error err = {0};
    json_t *answer = NULL;
    int fd = -1;
    int r = connect_executive(o, &fd, &err);
    if (r < 0)
        return fail(&err);
    json_t *request = json_pack("{s:s}", "op", "stop");
    r = ofr_control_call(fd, request, &answer, &err);
    json_decref(request);
    close(fd);
    if (r < 0)
        return fail(&err);
    if (o->json)
        json_dumpf(answer, stdout, JSON_INDENT(2));
    puts(o->json ? "" : "stopped");
    json_decref(answer);
    return OFR_EXIT_OK;
}

static int command_status(const struct options *o)
{
    ofr_error err = {0};
    int fd = -1;
    int r = connect_executive(o, &fd, &err);
    if (r < 0)
        return fail(&err);
    int code = ofr_status_command(fd, o->json, o->watch);
    close(fd);
    return code;
}

int main(int argc, char **argv)
{
    struct options o = {
        .log_level = "info", .failure_window = 30, .idle_worker = 30, .cache_mib = 1024};
    const ofr_option table[] = {
        {"model", OFR_OPTION_STRING, &o.model, 0, 0, "DIR",
         "package (default " OFR_DEFAULT_PACKAGE ")"},
        {"instance", OFR_OPTION_STRING, &o.instance, 0, 0, "NAME",
         "name (default: one per package)"},
        {"foreground", OFR_OPTION_FLAG, &o.foreground, 0, 0, NULL,
         "run: stay attached, log to stderr"},
        {"plan", OFR_OPTION_STRING, &o.plan, 0, 0, "PLAN",
         "run: devices per phase and layers, for clients that name none (default auto)"},
        {"first_plan", OFR_OPTION_STRING, &o.first_plan, 0, 0, "PLAN",
         "run: the plan to begin with, of the client that starts it"},
        {"context", OFR_OPTION_INT, &o.context, 16, 1 << 24, "N",
         "run: tokens a sequence may have"},
        {"slots", OFR_OPTION_INT, &o.slots, 1, OFR_SESSION_SEGMENTS_MAX, "N",
         "run: sequences kept at once (default: what memory allows)"},
        {"cache_dir", OFR_OPTION_STRING, &o.cache_dir, 0, 0, "DIR",
         "run: keep the KV of prompts there when the executive ends, and begin with it"},
        {"cache_mib", OFR_OPTION_INT, &o.cache_mib, 1, 1 << 24, "N",
         "run: most that --cache_dir may take (default 1024)"},
        {"threads", OFR_OPTION_INT, &o.threads, 1, 256, "N",
         "run: CPU threads (default: one per core)"},
        {"failure_window", OFR_OPTION_INT, &o.failure_window, 0, 3600, "S",
         "run: 3 deaths of a worker in S seconds quarantine its device (default 30, 0: never)"},
        {"idle_worker", OFR_OPTION_INT, &o.idle_worker, 0, 3600, "S",
         "run: end a worker that no plan has needed for S seconds (default 30, 0: never)"},
        {"worker_memory", OFR_OPTION_INT, &o.worker_mib, 1, 1 << 24, "MIB",
         "run: most that compiling for a device may take (default: half of what is free)"},
        {"log_level", OFR_OPTION_STRING, &o.log_level, 0, 0, "L", "error, warning, info or debug"},
        {"root", OFR_OPTION_STRING, &o.root, 0, 0, "DIR",
         "devices, doctor, run (health): the machine whose files are below DIR"},
        {"watch", OFR_OPTION_FLAG, &o.watch, 0, 0, NULL, "status: again every second"},
        {"json", OFR_OPTION_FLAG, &o.json, 0, 0, NULL,
         "status, devices, doctor: one JSON object on stdout"},
        {"help", OFR_OPTION_FLAG, &o.help, 0, 0, NULL, "print this text"},
        {"version", OFR_OPTION_FLAG, &o.version, 0, 0, NULL, "print the version"},
    };
    size_t count = sizeof table / sizeof table[0];
    int positional = 0;
    ofr_error err = {0};
    enum ofr_log_level level = OFR_LOG_LEVEL_INFO;
    int r = ofr_options_parse(table, count, argc, argv, &positional, &err);
    if (r == 0)
        r = ofr_log_level_parse(o.log_level, &level, &err);
    if (r < 0)
        return fail(&err);
    ofr_log_setup("executive_shard", level);
    if (o.help) {
        printf("usage: executive_shard [COMMAND] [options]\n\n"
               "  run      serve a package until 'stop' (also without a command)\n"
               "  status   what the executive and its devices do\n"
               "  devices  the devices of this machine, with their names in plans\n"
               "  doctor   what is missing, and the line that mends it\n"
               "  stop     end the executive\n\n");
        ofr_options_print(table, count, stdout);
        return OFR_EXIT_OK;
    }
    if (o.version) {
        printf("executive_shard " OFR_VERSION "\n");
        return OFR_EXIT_OK;
    }
    const char *command = positional ? argv[1] : "run";
    if (positional <= 1 && strcmp(command, "run") == 0)
        return command_run(&o);
    if (positional == 1 && strcmp(command, "devices") == 0)
        return ofr_devices_command(o.root, o.json);
    if (positional == 1 && strcmp(command, "doctor") == 0)
        return ofr_doctor_command(&(ofr_doctor_options){.root = o.root, .model = o.model}, o.json);
    if (positional == 1 && strcmp(command, "status") == 0)
        return command_status(&o);
    if (positional == 1 && strcmp(command, "stop") == 0)
        return command_stop(&o);
    fprintf(stderr, "executive_shard: unknown command '%s'; --help lists them\n",
            positional > 1 ? argv[2] : command);
    return OFR_EXIT_USAGE;
}
