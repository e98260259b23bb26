# SPDX-License-Identifier: Apache-2.0
"""The vectors of Tests/Vectors that Python sees: layouts and keys."""
import ctypes
import json
import struct

import pytest
from conftest import ROOT

import kvstore
from kvstore import _native
from kvstore.client import _token_array


def vectors(name):
    path = ROOT / "Tests" / "Vectors" / "key" / f"{name}.json"
    return [pytest.param(vector, id=vector["name"])
            for vector in json.loads(path.read_text(encoding="utf-8"))]


def value_of(field):
    if "double_bits" in field:
        return struct.unpack("<d", struct.pack("<Q", field["double_bits"]))[0]
    return field["whole"] if "whole" in field else field["text"]


@pytest.mark.parametrize("vector", vectors("layouts"))
def test_layouts(vector):
    description = {field["name"]: value_of(field) for field in vector["fields"]}
    assert kvstore.layout_id(description).hex() == vector["id"]


@pytest.mark.parametrize("vector", vectors("prefixes"))
def test_prefixes(vector):
    count = len(vector["keys"])
    keys = ctypes.create_string_buffer(_native.KEY_BYTES * max(1, count))
    tokens = _native.Buffer(_token_array(vector["tokens"]))
    assert _native.library.kvs_derive_prefix_keys(
        bytes.fromhex(vector["secret"]), bytes.fromhex(vector["layout"]), None, tokens.address,
        len(vector["tokens"]), vector["tokens_per_chunk"], keys) == _native.OK
    tokens.release()
    assert keys.raw[:_native.KEY_BYTES * count].hex() == "".join(vector["keys"])


@pytest.mark.parametrize("vector", vectors("singles"))
def test_singles(vector):
    key = ctypes.create_string_buffer(_native.KEY_BYTES)
    secret = bytes.fromhex(vector["secret"])
    if vector["opaque_name"] is not None:
        name = bytes.fromhex(vector["opaque_name"])
        status = _native.library.kvs_derive_opaque_key(secret, name, len(name), key)
    else:
        tokens = _native.Buffer(_token_array(vector["tokens"]))
        status = _native.library.kvs_derive_content_key(
            secret, bytes.fromhex(vector["layout"]), tokens.address, len(vector["tokens"]), key)
        tokens.release()
    assert status == _native.OK
    assert key.raw.hex() == vector["key"]
