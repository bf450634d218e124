"""Writes a GGUF again with its matrices in F16: the same model in a type that every reader knows."""
import numpy
from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize


def write(source, target):
    reader = GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        value = field.contents()
        if name == "general.file_type":
            value = 1  # mostly F16
        writer.add_key_value(name, value, kind,
                             field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        matrix = len(tensor.shape) > 1
        writer.add_tensor(tensor.name,
                          numpy.ascontiguousarray(values, numpy.float16 if matrix else
                                                  numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
