/* Workers take blocks of rows in the order of the source (one at a time: this is where the bytes
 * are hashed), convert them side by side, and write them in the same order again. Which worker does
 * what does not show in the result. */
#include "bake_model/bake_pipeline.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/bake_tensor.h"
#include "bake_model/source_stream.h"

enum { MAX_THREADS = 16, GAP_BYTES = 1 << 20 };

/* With each finished tensor the state file keeps where its file's hash stood behind it; with the
 * last tensor of a file, the hash of the whole file. */
static const char NOTE_STATE[] = "state:", NOTE_FILE[] = "file:";

typedef struct job {
    ofr_bake_block block;
    bool first, last; /* of the tensor */
    char note[OFR_PACKAGE_NOTE_MAX];
    uint64_t sequence;
    uint64_t bytes; /* of the source, with what was passed over */
    char *raw, *minima;
    size_t raw_bytes, data_bytes, scale_bytes, minima_bytes;
} job;

typedef struct run {
    const ofr_bake_pipeline *p;
    const ofr_bake_tensor **order; /* [n_order] by place in the source, those with values first */
    size_t n_order;
    ofr_source_stream *stream;
    const ofr_quantize_kernel *kernel;
    /* Taking; under `take`. */
    pthread_mutex_t take;
    size_t next; /* of `order` */
    uint64_t row;
    uint32_t file;
    uint64_t at; /* in the file: bytes before it are hashed */
    ofr_sha256 sha;
    uint64_t taken;
    bool exhausted;
    /* Writing; under `commit`. A thread may take `commit` while it holds `take`, never the other
     * way round. */
    pthread_mutex_t commit;
    pthread_cond_t turn;
    uint64_t committed;
    char *minima; /* of the tensor that is being written, as far as they have come */
    size_t minima_room;
    int result;
    ofr_error *err;
} run;

static const ofr_source_file *file_of(const run *r, uint32_t file)
{
    return &r->p->source->files.files[file];
}

static uint64_t end_of(const ofr_bake_tensor *t)
{
    return t->source.offset + t->source.rows * t->source.row_bytes;
}

static int compare_places(const void *a, const void *b)
{
    const ofr_bake_tensor *x = *(const ofr_bake_tensor *const *)a;
    const ofr_bake_tensor *y = *(const ofr_bake_tensor *const *)b;
    if (!x->values != !y->values)
        return x->values ? -1 : 1;
    if (x->values) /* both lie in one array: keep its order */
        return x < y ? -1 : x > y;
    if (x->source.file != y->source.file)
        return x->source.file < y->source.file ? -1 : 1;
    return x->source.offset < y->source.offset ? -1 : x->source.offset > y->source.offset;
}

static int set_order(run *r, ofr_error *err)
{
    const ofr_bake_model *model = &r->p->source->model;
    r->n_order = model->n_tensors;
    r->order = calloc(r->n_order + 1, sizeof(const ofr_bake_tensor *));
    if (!r->order)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    for (size_t i = 0; i < r->n_order; i++)
        r->order[i] = &model->tensors[i];
    qsort(r->order, r->n_order, sizeof(const ofr_bake_tensor *), compare_places);
    return 0;
}

static bool is_used(const ofr_bake_source *source, uint32_t file)
{
    for (size_t i = 0; i < source->model.n_tensors; i++)
        if (!source->model.tensors[i].values && source->model.tensors[i].source.file == file)
            return true;
    return false;
}

uint64_t ofr_bake_pipeline_bytes(const ofr_bake_source *source)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < source->files.n_files; i++)
        total += is_used(source, i) ? source->files.files[i].size : 0;
    return total;
}

/* ---- what an earlier run has done ---- */

static int write_values(run *r, const ofr_bake_tensor *t, ofr_error *err)
{
    ofr_tensor spec;
    ofr_bake_tensor_spec(t, &spec);
    int result = ofr_package_writer_begin(r->p->writer, &spec, err);
    if (result == 0)
        result = ofr_package_writer_data(r->p->writer, t->values,
                                         (size_t)t->shape[0] * sizeof(float), err);
    return result < 0 ? result : ofr_package_writer_end(r->p->writer, NULL, err);
}

/* Goes to the byte behind a tensor that is there already. */
static int take_up(run *r, const ofr_bake_tensor *t, const char *note, ofr_error *err)
{
    if (strncmp(note, NOTE_FILE, sizeof NOTE_FILE - 1) == 0) {
        snprintf(r->p->ret_sha256[t->source.file], OFR_SHA256_HEX_SIZE, "%s",
                 note + sizeof NOTE_FILE - 1);
        r->file = t->source.file;
        r->at = file_of(r, t->source.file)->size;
        return 0;
    }
    ofr_sha256_done(&r->sha);
    if (strncmp(note, NOTE_STATE, sizeof NOTE_STATE - 1) != 0 ||
        ofr_sha256_import(&r->sha, note + sizeof NOTE_STATE - 1, err) < 0)
        return ofr_fail(err, OFR_ECORRUPT,
                        "%s.partial: the notes of the interrupted bake are damaged; remove that "
                        "directory and start again",
                        r->p->options->output);
    r->file = t->source.file;
    r->at = end_of(t);
    return 0;
}

static int resume(run *r, ofr_error *err)
{
    int result = 0;
    for (; r->next < r->n_order && result == 0; r->next++) {
        const ofr_bake_tensor *t = r->order[r->next];
        bool there = ofr_package_writer_has(r->p->writer, t->name);
        if (!there && !t->values)
            break;
        if (there)
            r->p->result->n_resumed++;
        if (!there)
            result = write_values(r, t, err);
        else if (!t->values)
            result = take_up(r, t, ofr_package_writer_note(r->p->writer), err);
    }
    return result;
}

/* What is left to read: the rest of the file that was begun, and every later file that is used. */
static int open_stream(run *r, ofr_error *err)
{
    const ofr_bake_source *source = r->p->source;
    ofr_source_span *spans = calloc(source->files.n_files + 1, sizeof *spans);
    if (!spans)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    size_t n = 0;
    uint64_t left = 0;
    for (uint32_t i = r->file; i < source->files.n_files; i++) {
        uint64_t begin = i == r->file ? r->at : 0;
        if (!is_used(source, i) || begin == source->files.files[i].size)
            continue;
        spans[n++] = (ofr_source_span){i, begin, source->files.files[i].size};
        left += spans[n - 1].end - begin;
    }
    uint64_t total = ofr_bake_pipeline_bytes(source);
    ofr_progress_skip(r->p->progress, total - left);
    int result = n ? ofr_source_stream_open(&source->files, spans, n, &r->stream, err) : 0;
    free(spans);
    return result;
}

/* ---- taking ---- */

/* The next `size` bytes of the file, hashed; to `to` unless that is NULL. */
static int consume(run *r, uint64_t size, char *to, ofr_error *err)
{
    while (size > 0) {
        const void *data;
        size_t n;
        int result = ofr_source_stream_next(r->stream, size < GAP_BYTES ? (size_t)size : GAP_BYTES,
                                            &data, &n, err);
        if (result == 0)
            result = ofr_sha256_update(&r->sha, data, n, err);
        if (result < 0)
            return result;
        if (to) {
            memcpy(to, data, n);
            to += n;
        }
        r->at += n;
        size -= n;
    }
    return 0;
}

static int enter_file(run *r, uint32_t file, ofr_error *err)
{
    if (r->sha.context && r->file == file)
        return 0;
    ofr_sha256_done(&r->sha);
    r->file = file;
    r->at = 0;
    return ofr_sha256_init(&r->sha, err);
}

/* The rest of the file, whose last tensor has been taken. */
static int leave_file(run *r, job *j, ofr_error *err)
{
    const ofr_source_file *file = file_of(r, r->file);
    int result = consume(r, file->size - r->at, NULL, err);
    char *sha256 = r->p->ret_sha256[r->file];
    if (result == 0)
        result = ofr_sha256_finish_hex(&r->sha, sha256, err);
    ofr_sha256_done(&r->sha);
    if (result == 0 && file->sha256[0] && strcmp(file->sha256, sha256) != 0)
        result = ofr_fail(err, OFR_ECORRUPT,
                          "%s: what was received has the sha256 %s, the hub promises %s; nothing "
                          "was kept: run the same command again",
                          file->path, sha256, file->sha256);
    snprintf(j->note, sizeof j->note, "%s%s", NOTE_FILE, sha256);
    return result;
}

static int grow(char **buffer, size_t *bytes, size_t needed, ofr_error *err)
{
    if (needed <= *bytes)
        return 0;
    free(*buffer);
    *bytes = 0;
    *buffer = malloc(needed);
    if (!*buffer)
        return ofr_fail(err, OFR_ENOMEM, "out of memory for a block of %zu bytes", needed);
    *bytes = needed;
    return 0;
}

static int read_block(run *r, job *j, ofr_error *err)
{
    const ofr_bake_tensor *t = r->order[r->next];
    uint64_t rows = t->source.rows, step = ofr_bake_block_rows(t, &r->p->source->model.params);
    uint64_t end = rows - r->row < step ? rows : r->row + step, count = end - r->row;
    int result = enter_file(r, t->source.file, err);
    uint64_t begin = t->source.offset + r->row * t->source.row_bytes, before = r->at;
    if (result == 0 && r->at > begin)
        result = ofr_fail(err, OFR_EINTERNAL, "%s: tensor '%s' was passed over",
                          file_of(r, r->file)->path, t->source.name);
    if (result == 0)
        result = consume(r, begin - r->at, NULL, err);
    if (result == 0)
        result = grow(&j->raw, &j->raw_bytes, (size_t)(count * t->source.row_bytes), err);
    if (result == 0)
        result =
            grow(&j->block.data, &j->data_bytes, (size_t)count * ofr_bake_row_data_bytes(t), err);
    if (result == 0)
        result = grow(&j->block.scales, &j->scale_bytes,
                      (size_t)count * ofr_bake_row_scale_bytes(t), err);
    if (result == 0 && t->dtype == OFR_DTYPE_I4M)
        result =
            grow(&j->minima, &j->minima_bytes, (size_t)count * ofr_bake_row_scale_bytes(t), err);
    if (result == 0)
        result = consume(r, count * t->source.row_bytes, j->raw, err);
    if (result < 0)
        return result;
    j->block.minima = (uint16_t *)(void *)j->minima;
    j->block.tensor = t;
    j->block.row_begin = r->row;
    j->block.row_end = end;
    j->block.path = file_of(r, r->file)->path;
    j->first = r->row == 0;
    j->last = end == rows;
    r->row = end;
    if (j->last) {
        r->next++;
        r->row = 0;
        bool more = r->next < r->n_order && r->order[r->next]->source.file == r->file;
        if (more) {
            char state[OFR_SHA256_STATE_SIZE];
            ofr_sha256_export(&r->sha, state);
            snprintf(j->note, sizeof j->note, "%s%s", NOTE_STATE, state);
        } else {
            result = leave_file(r, j, err);
        }
    }
    j->bytes = r->at - before;
    return result;
}

/* The next block, with a number; 0: there is none. */
static int take(run *r, job *j, int *ret_result, ofr_error *err)
{
    const ofr_bake_options *options = r->p->options;
    pthread_mutex_lock(&r->take);
    bool more = !r->exhausted && r->next < r->n_order;
    if (more) {
        j->sequence = r->taken++;
        *ret_result = options->cancel && *options->cancel
                          ? ofr_fail(err, OFR_ECANCELED,
                                     "interrupted; run the same command again to continue")
                          : read_block(r, j, err);
        r->exhausted = *ret_result < 0;
    }
    pthread_mutex_unlock(&r->take);
    return more;
}

/* ---- writing ---- */

/* Minima lie behind the scales of all rows: they are kept until the last row has come. */
static int write_minima(run *r, const job *j, ofr_error *err)
{
    const ofr_bake_tensor *t = j->block.tensor;
    size_t row_bytes = ofr_bake_row_scale_bytes(t), all = (size_t)t->shape[0] * row_bytes;
    size_t bytes = (size_t)(j->block.row_end - j->block.row_begin) * row_bytes;
    int result = j->first ? grow(&r->minima, &r->minima_room, all, err) : 0;
    if (result < 0)
        return result;
    memcpy(r->minima + (size_t)j->block.row_begin * row_bytes, j->minima, bytes);
    return j->last ? ofr_package_writer_scales(r->p->writer, r->minima, all, err) : 0;
}

static int write_block(run *r, const job *j, ofr_error *err)
{
    const ofr_bake_tensor *t = j->block.tensor;
    ofr_package_writer *writer = r->p->writer;
    size_t rows = (size_t)(j->block.row_end - j->block.row_begin);
    ofr_tensor spec;
    ofr_bake_tensor_spec(t, &spec);
    int result = j->first ? ofr_package_writer_begin(writer, &spec, err) : 0;
    if (result == 0)
        result =
            ofr_package_writer_data(writer, j->block.data, rows * ofr_bake_row_data_bytes(t), err);
    if (result == 0 && t->group_size > 0)
        result = ofr_package_writer_scales(writer, j->block.scales,
                                           rows * ofr_bake_row_scale_bytes(t), err);
    if (result == 0 && t->dtype == OFR_DTYPE_I4M)
        result = write_minima(r, j, err);
    if (result == 0 && j->last)
        result = ofr_package_writer_end(writer, j->note, err);
    if (result < 0)
        return result;
    ofr_quantize_error *sum = &r->p->result->quantization_error[t->class];
    sum->error += j->block.error.error;
    sum->energy += j->block.error.energy;
    if (r->p->tensor_errors) {
        sum = &r->p->tensor_errors[t - r->p->source->model.tensors];
        sum->error += j->block.error.error;
        sum->energy += j->block.error.energy;
    }
    ofr_progress_add(r->p->progress, j->bytes);
    return 0;
}

/* In turn; the first failure in order is the one that is reported. */
static void commit(run *r, const job *j, int result, const ofr_error *failure)
{
    pthread_mutex_lock(&r->commit);
    while (r->committed != j->sequence)
        pthread_cond_wait(&r->turn, &r->commit);
    if (r->result == 0 && result < 0)
        r->result = ofr_fail(r->err, result, "%s", failure->text);
    if (r->result == 0)
        r->result = write_block(r, j, r->err);
    r->committed++;
    bool failed = r->result < 0;
    pthread_cond_broadcast(&r->turn);
    pthread_mutex_unlock(&r->commit);
    if (failed) {
        pthread_mutex_lock(&r->take);
        r->exhausted = true;
        pthread_mutex_unlock(&r->take);
    }
}

static void *work(void *argument)
{
    run *r = argument;
    job j = {.block = {.params = &r->p->source->model.params,
                       .kernel = r->kernel,
                       .allow_nan = r->p->options->allow_nan}};
    ofr_error failure = {0};
    int result = 0;
    while (take(r, &j, &result, &failure)) {
        j.block.raw = j.raw;
        j.block.error = (ofr_quantize_error){0};
        if (result == 0)
            result = ofr_bake_block_convert(&j.block, &failure);
        commit(r, &j, result, &failure);
    }
    free(j.raw);
    free(j.minima);
    free(j.block.data);
    free(j.block.scales);
    return NULL;
}

static void work_together(run *r)
{
    pthread_t threads[MAX_THREADS];
    unsigned n = 0, wanted = r->p->threads < MAX_THREADS ? r->p->threads : MAX_THREADS;
    while (n + 1 < wanted && pthread_create(&threads[n], NULL, work, r) == 0)
        n++;
    work(r);
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

int ofr_bake_pipeline_run(const ofr_bake_pipeline *pipeline, ofr_error *err)
{
    ofr_cpu_features features;
    ofr_cpu_features_detect(&features);
    run r = {.p = pipeline, .err = err, .kernel = ofr_quantize_kernel_choose(&features)};
    pthread_mutex_init(&r.take, NULL);
    pthread_mutex_init(&r.commit, NULL);
    pthread_cond_init(&r.turn, NULL);
    int result = set_order(&r, err);
    if (result == 0)
        result = resume(&r, err);
    if (result == 0)
        result = open_stream(&r, err);
    if (result == 0) {
        work_together(&r);
        result = r.result;
    }
    ofr_source_stream_close(r.stream);
    ofr_sha256_done(&r.sha);
    pthread_cond_destroy(&r.turn);
    pthread_mutex_destroy(&r.commit);
    pthread_mutex_destroy(&r.take);
    free(r.order);
    free(r.minima);
    const ofr_bake_model *model = &pipeline->source->model;
    for (size_t i = 0; i < model->n_tensors; i++) {
        pipeline->result->n_tensors++;
        pipeline->result->dtype_counts[model->tensors[i].dtype]++;
    }
    return result;
}
