/* A graph as XML, IR version 11: layers with their ports, then the edges between them. */
#include <stdio.h>
#include <stdlib.h>

#include "graph/ir_internal.h"

static void write_port(FILE *f, const ofr_ir *ir, const ir_layer *layer, uint32_t id,
                       const ir_port *port, bool with_names)
{
    fprintf(f, "<port id=\"%u\" precision=\"%s\"", id, ofr_ir_type_precision(port->type));
    const char *result = port->result ? ir->layers[port->result - 1].name : NULL;
    if (with_names && (layer->named || result))
        fprintf(f, " names=\"%s%s%s\"", layer->named ? layer->name : "",
                layer->named && result ? "," : "", result ? result : "");
    fputs(port->shape.rank ? ">" : "/>\n", f);
    for (uint32_t i = 0; i < port->shape.rank; i++)
        fprintf(f, "<dim>%lld</dim>", (long long)port->shape.dims[i]);
    if (port->shape.rank)
        fputs("</port>\n", f);
}

static void write_layer(FILE *f, const ofr_ir *ir, size_t index)
{
    const ir_layer *layer = &ir->layers[index];
    fprintf(f, "<layer id=\"%zu\" name=\"%s\" type=\"%s\" version=\"%s\">\n", index, layer->name,
            layer->type, layer->opset);
    if (layer->data)
        fprintf(f, "<data %s/>\n", layer->data);
    if (layer->n_inputs)
        fputs("<input>\n", f);
    for (uint32_t i = 0; i < layer->n_inputs; i++) {
        ofr_ir_value from = layer->inputs[i];
        write_port(f, ir, layer, i, &ir->layers[from.layer].outputs[from.output], false);
    }
    if (layer->n_inputs)
        fputs("</input>\n", f);
    if (layer->n_outputs)
        fputs("<output>\n", f);
    for (uint32_t i = 0; i < layer->n_outputs; i++)
        write_port(f, ir, layer, layer->n_inputs + i, &layer->outputs[i], true);
    if (layer->n_outputs)
        fputs("</output>\n", f);
    fputs("</layer>\n", f);
}

int ofr_ir_write(ofr_ir *ir, char **ret_text, size_t *ret_size, ofr_error *err)
{
    if (ir->result < 0)
        return ofr_fail(err, ir->result, "%s", ir->error.text);
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return ofr_fail(err, OFR_ENOMEM, "graph '%s': out of memory", ir->name);
    fprintf(f, "<?xml version=\"1.0\"?>\n<net name=\"%s\" version=\"11\">\n<layers>\n", ir->name);
    for (size_t i = 0; i < ir->n_layers; i++)
        write_layer(f, ir, i);
    fputs("</layers>\n<edges>\n", f);
    for (size_t to = 0; to < ir->n_layers; to++) {
        const ir_layer *layer = &ir->layers[to];
        for (uint32_t i = 0; i < layer->n_inputs; i++)
            fprintf(f,
                    "<edge from-layer=\"%u\" from-port=\"%u\" to-layer=\"%zu\" to-port=\"%u\"/>\n",
                    layer->inputs[i].layer,
                    ir->layers[layer->inputs[i].layer].n_inputs + layer->inputs[i].output, to, i);
    }
    fputs("</edges>\n", f);
    if (ir->info)
        fprintf(f, "<rt_info>\n%s</rt_info>\n", ir->info);
    fputs("</net>\n", f);
    int bad = ferror(f);
    if (fclose(f) != 0 || bad) {
        free(text);
        return ofr_fail(err, OFR_ENOMEM, "graph '%s': out of memory", ir->name);
    }
    *ret_text = text;
    *ret_size = size;
    return 0;
}
