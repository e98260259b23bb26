# SPDX-License-Identifier: Apache-2.0
"""usage: convert_model.py FOLDER FILE.gguf OUTPUT_FOLDER

Makes a folder in float32 that transformers loads out of a quantised GGUF file.
"""
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    folder, name, output = sys.argv[1:]
    quantised = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = "float32"
    # transformers does not save a model that it read from a GGUF file; one made anew it does.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict(), strict=False)
    model.eval().save_pretrained(output)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(output)


if __name__ == "__main__":
    main()
