/* The static OpenVINO graphs of a package: block_<T>_<S>.xml, prefill_<T>.xml, decode.xml; the
 * stateful openvino_model.xml with openvino_model.bin, a hard link to weights.bin; and the tensor
 * graph_constants in weights.bin that holds their small constants. */
#ifndef OFR_BAKE_MODEL_BAKE_GRAPHS_H
#define OFR_BAKE_MODEL_BAKE_GRAPHS_H

#include "bake_model/bake.h"
#include "package/package_writer.h"

/* After the last tensor of the model. `chunks` NULL: the default ladder. A model that the graphs
 * cannot express gets none: `result` says why. */
int ofr_bake_graphs(ofr_package_writer *writer, const ofr_model_params *params, const char *chunks,
                    ofr_bake_result *result, ofr_error *err);

#endif
