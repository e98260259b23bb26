# SPDX-License-Identifier: Apache-2.0
"""Learns a model's profile for the codec, from text and the model itself.

`python -m kvstore_profile MODEL_FOLDER TEXT.jsonl PROFILE` needs torch, transformers and xxhash;
the statistics alone (`learning`, `scalar`, `predictive`, `tables`) need NumPy only. The profile's
bytes are described in docs/container-format.md, section 11.
"""
