"""The same weights as conflayers loads from a GGUF file, written as a GGUF file in bfloat16: what llama.cpp is given so
that both engines multiply with the same numbers.

    python benchmarks/bf16_gguf.py FILE.gguf OUT.gguf
"""

import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import Keys, LlamaFileType
from gguf.quants import dequantize, quantize


def main(source: str, out: str) -> None:
    reader = GGUFReader(source)
    writer = GGUFWriter(out, str(reader.fields[Keys.General.ARCHITECTURE].contents()))
    written = {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", Keys.General.ARCHITECTURE, Keys.General.FILE_TYPE}
    for name, found in reader.fields.items():
        if name not in written:
            kinds = found.types
            inside = kinds[-1] if kinds[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, found.contents(), kinds[0], inside)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
        # Norms are vectors, and llama.cpp wants those in float32.
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.astype(np.float32))
        else:
            kind = GGMLQuantizationType.BF16
            writer.add_tensor(tensor.name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
