/* The plot of --report: errors of the seven matrices over the layers, and bytes by dtype, as SVG.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bake_model/bake_report.h"

enum { WIDTH = 960, HEIGHT = 560, LEFT = 70, RIGHT = 170, TOP = 50, PLOT = 330, SIZES = 440 };

static const struct {
    const char *part, *colour;
} parts[] = {
    {"q_proj", "#1b6ca8"},    {"k_proj", "#5fa8d3"},    {"v_proj", "#0b3c5d"},
    {"o_proj", "#3a9d5d"},    {"gate_proj", "#d98e04"}, {"up_proj", "#e0b24f"},
    {"down_proj", "#b5342b"},
};
enum { N_PARTS = sizeof parts / sizeof parts[0] };

static bool parse_name(const char *name, unsigned *ret_layer, int *ret_part)
{
    if (sscanf(name, "model.layers.%u.", ret_layer) != 1)
        return false;
    for (int i = 0; i < N_PARTS; i++)
        if (strstr(name, parts[i].part)) {
            *ret_part = i;
            return true;
        }
    return false;
}

/* The error that is plotted: of outputs where all but INT8 have one, else of weights. */
static double plotted(const ofr_bake_tensor_result *t, bool outputs)
{
    const ofr_quantize_error *e = outputs ? &t->output_error : &t->weight_error;
    return e->energy > 0 ? sqrt(e->error / e->energy) : t->kept || outputs ? 0 : -1;
}

/* 1, 2 or 5 times a power of ten, so that about five of them reach `largest`. */
static double step_of(double largest)
{
    double step = pow(10, floor(log10(largest / 5)));
    double ratio = largest / 5 / step;
    return step * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

static void write_escaped(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<' || *text == '&' || *text == '>')
            fprintf(out, "&#%d;", *text);
        else if ((unsigned char)*text >= 32)
            fputc(*text, out);
    }
}

static void write_axes(FILE *out, double largest, unsigned n_layers, bool outputs)
{
    double step = step_of(largest);
    for (double v = 0; v <= largest * 1.0001; v += step) {
        double y = TOP + PLOT * (1 - v / largest);
        fprintf(out,
                "<line x1='%d' y1='%.1f' x2='%d' y2='%.1f' stroke='#ddd'/>"
                "<text x='%d' y='%.1f' text-anchor='end'>%.4g %%</text>\n",
                LEFT, y, WIDTH - RIGHT, y, LEFT - 8, y + 4, 100 * v);
    }
    unsigned every = n_layers > 20 ? 5 : 1;
    for (unsigned i = 0; i < n_layers; i += every)
        fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%u</text>\n",
                LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / n_layers, TOP + PLOT + 18, i);
    fprintf(out, "<text x='%d' y='%d'>layer; relative error of the %s</text>\n", LEFT,
            TOP + PLOT + 36, outputs ? "outputs over the calibration's tokens" : "weights");
}

static void write_points(FILE *out, const ofr_bake_result *result, double largest,
                         unsigned n_layers, bool outputs)
{
    for (int part = 0; part < N_PARTS; part++) {
        fprintf(out, "<polyline fill='none' stroke='%s' stroke-width='2' points='",
                parts[part].colour);
        for (int pass = 0; pass < 2; pass++) {
            for (size_t i = 0; i < result->n_matrices; i++) {
                const ofr_bake_tensor_result *t = &result->tensors[i];
                unsigned layer;
                int own;
                if (!parse_name(t->name, &layer, &own) || own != part || plotted(t, outputs) < 0)
                    continue;
                double x = LEFT + (WIDTH - LEFT - RIGHT) * (layer + 0.5) / n_layers;
                double y = TOP + PLOT * (1 - plotted(t, outputs) / largest);
                if (pass == 0)
                    fprintf(out, "%.1f,%.1f ", x, y);
                else
                    fprintf(out,
                            "<circle cx='%.1f' cy='%.1f' r='%d' fill='%s'><title>%s: %s, %llu "
                            "bytes, %.4g %%</title></circle>\n",
                            x, y, t->dtype == OFR_DTYPE_I8 ? 6 : 3, parts[part].colour, t->name,
                            ofr_dtype_name(t->dtype), (unsigned long long)t->bytes,
                            100 * plotted(t, outputs));
            }
            fputs(pass == 0 ? "'/>\n" : "", out);
        }
        int y = TOP + 14 + 22 * part;
        fprintf(out,
                "<rect x='%d' y='%d' width='14' height='14' fill='%s'/>"
                "<text x='%d' y='%d'>%s</text>\n",
                WIDTH - RIGHT + 20, y - 11, parts[part].colour, WIDTH - RIGHT + 42, y,
                parts[part].part);
    }
}

static void write_sizes(FILE *out, const ofr_bake_result *result)
{
    uint64_t bytes[OFR_DTYPE_I4M + 1] = {0}, total = 0;
    for (size_t i = 0; i < result->n_matrices; i++) {
        bytes[result->tensors[i].dtype] += result->tensors[i].bytes;
        total += result->tensors[i].bytes;
    }
    static const char *const colours[OFR_DTYPE_I4M + 1] = {"#999", "#777", "#6b4e9b", "#b79ad6",
                                                           "#9fc5c0"};
    double x = LEFT;
    for (int i = 0; i <= OFR_DTYPE_I4M; i++) {
        if (bytes[i] == 0)
            continue;
        double width = (WIDTH - 2 * LEFT) * ((double)bytes[i] / (double)total);
        fprintf(out,
                "<rect x='%.1f' y='%d' width='%.1f' height='34' fill='%s'/>"
                "<text x='%.1f' y='%d'>%s %.1f MiB</text>\n",
                x, SIZES, width, colours[i], x + 6, SIZES + 54, ofr_dtype_name((enum ofr_dtype)i),
                (double)bytes[i] / 1048576);
        x += width;
    }
}

int ofr_bake_report_svg(const ofr_bake_result *result, const char *title, char **ret_text,
                        size_t *ret_size, ofr_error *err)
{
    FILE *out = open_memstream(ret_text, ret_size);
    if (!out)
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    bool outputs = false;
    unsigned n_layers = 1;
    for (size_t i = 0; i < result->n_matrices; i++)
        outputs |= result->tensors[i].output_error.energy > 0;
    double largest = 1e-6;
    for (size_t i = 0; i < result->n_matrices; i++) {
        unsigned layer;
        int part;
        if (!parse_name(result->tensors[i].name, &layer, &part))
            continue;
        n_layers = layer + 1 > n_layers ? layer + 1 : n_layers;
        largest = fmax(largest, plotted(&result->tensors[i], outputs));
    }
    largest *= 1.05;
    fprintf(out,
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
            "font-family='sans-serif' font-size='13'>\n"
            "<rect width='100%%' height='100%%' fill='white'/>\n<text x='%d' y='28' "
            "font-size='17'>",
            WIDTH, HEIGHT, WIDTH, HEIGHT, LEFT);
    write_escaped(out, title);
    fputs("</text>\n", out);
    write_axes(out, largest, n_layers, outputs);
    write_points(out, result, largest, n_layers, outputs);
    write_sizes(out, result);
    fprintf(out, "<text x='%d' y='%d'>bytes of the matrices by dtype; large dots are INT8</text>\n",
            LEFT, SIZES - 10);
    fputs("</svg>\n", out);
    if (fclose(out) != 0) {
        free(*ret_text);
        return ofr_fail(err, OFR_ENOMEM, "out of memory");
    }
    return 0;
}
