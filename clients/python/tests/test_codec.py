# SPDX-License-Identifier: Apache-2.0
"""The codec in the client: alone against the vectors, and with the daemon, which has the same."""
import hashlib
import hmac
import json
import os
import sys
import threading

import numpy
import pytest
from conftest import ROOT, daemon

import kvstore
from kvstore import Codec, Level
from kvstore.codec import canonical_description

sys.path.insert(0, str(ROOT / "Tests" / "Vectors"))

import container_reader  # noqa: E402

VECTORS = ROOT / "Tests" / "Vectors" / "container"
LAYERS, TOKENS, HEADS, CHANNELS = 4, 64, 2, 64
DESCRIPTION = {
    "axes": "kv,layer,token,head,channel", "dtype": "float16", "layers": LAYERS,
    "kv_heads": HEADS, "head_dim": CHANNELS, "rope_theta": 10000.0, "model": "of a test",
}  # fmt: skip
LOSSY = [Level.Q1, Level.Q2, Level.Q3, Level.Q4]
needs_daemon = pytest.mark.skipif(not os.environ.get("KVSTORED"), reason="needs KVSTORED")


def vectors(name):
    return json.loads((VECTORS / f"{name}.json").read_text())


def profile_vector(name):
    """A vector with a profile: its container, profile, description and payload."""
    vector = next(each for each in vectors("good-profile") if each["name"] == name)
    container = bytes.fromhex(vector["container"])
    reader = container_reader.Container(container)
    description = reader.section(reader.entries[0])
    return container, bytes.fromhex(vector["profile"]), description, bytes.fromhex(
        vector["payload"])


def payload(seed=1):
    """KV as models have it: channels of different spread, K after RoPE."""
    source = numpy.random.default_rng(seed)
    spread = numpy.exp(source.normal(size=(2, LAYERS, 1, HEADS, CHANNELS)))
    values = source.normal(size=(2, LAYERS, TOKENS, HEADS, CHANNELS)) * spread
    return values.astype(numpy.float16)


def error(left, right, read=lambda each: numpy.frombuffer(each, numpy.float16)):
    """Root mean square of the difference, relative to the values'."""
    left, right = (read(each).astype(float) for each in (left, right))
    return ((left - right) ** 2).mean() ** 0.5 / (left**2).mean() ** 0.5


def bfloat16(content):
    return (numpy.frombuffer(content, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)


@pytest.fixture
def codec():
    with Codec(DESCRIPTION) as made:
        yield made


@pytest.fixture(scope="module", params=["unix", "tcp"])
def client(request):
    if not os.environ.get("KVSTORED"):
        pytest.skip("needs KVSTORED")
    with daemon() as server, kvstore.Client(
            getattr(server, request.param), deadline_milliseconds=30_000) as made:
        yield made


# The codec alone ---------------------------------------------------------------------------------


def test_sound_vectors():
    for vector in vectors("good"):
        with Codec() as codec:
            container = bytes.fromhex(vector["container"])
            made = codec.decode(container)
            assert hashlib.sha256(made).hexdigest() == vector["payload_sha256"], vector["name"]
            info = codec.inspect(container)
            assert info.payload_byte_count == vector["payload_byte_count"]


@pytest.mark.parametrize("name", [
    "exponent: float16", "exponent: bfloat16", "scalar: K before RoPE",
    "scalar: exact rows, float16", "scalar: two groups of columns, not turned",
    "predicted: two groups",
])  # fmt: skip
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_vectors_with_a_profile_at_any_alignment(name, shift):
    container, profile, description, expected = profile_vector(name)
    moved = memoryview(bytes(shift) + container)[shift:]
    with Codec(description) as codec:
        with pytest.raises(kvstore.NotDecoded, match="profile") as missing:
            codec.decode(container)
        assert missing.value.reason == "profile missing"
        added = codec.add_profile(memoryview(bytes(shift) + profile)[shift:])
        assert codec.inspect(container).profile_hash == added
        assert added == hashlib.sha256(profile).digest()[:16]
        assert codec.decode(moved) == expected


def test_damaged_vectors_are_refused():
    for vector in vectors("bad"):
        if vector["profile"] or not vector["container"]:
            continue
        with Codec() as codec, pytest.raises(kvstore.NotDecoded) as refusal:
            codec.decode(bytes.fromhex(vector["container"]))
        assert refusal.value.reason == vector["fault"].replace("-", " "), vector["name"]


@pytest.mark.parametrize("level", [Level.ZSTD, Level.LOSSLESS, *LOSSY])
def test_every_level_there_and_back(codec, level):
    source = payload().tobytes()
    container = codec.encode(source, level, first_position=256)
    info = codec.inspect(container)
    assert (info.level, info.layout_id) == (level, kvstore.layout_id(DESCRIPTION))
    assert len(container) < len(source)
    back = codec.decode(container)
    if level <= Level.LOSSLESS:
        assert back == source
    else:
        assert (info.token_count, info.layer_count, info.kind_count) == (TOKENS, LAYERS, 2)
        assert (info.mode, info.first_position, info.exact_token_count) == ("cachegen", 256, 0)
        assert 0 < error(source, back) < 0.5
        # The second reader, written from the text, has the same values but for their rounding.
        other = container_reader.decode(bytes(container))
        assert error(back, other) < 1e-3
        coarser = codec.decode(codec.encode(source, level + 1)) if level < Level.Q4 else None
        assert coarser is None or error(source, coarser) > error(source, back)


def test_layers_and_sections(codec):
    source = payload()
    container = codec.encode(source, Level.LOSSLESS)
    for layer in range(LAYERS):
        for kind in range(2):
            values = codec.decode_section(container, layer, kind)
            expected = source[kind, layer].astype(numpy.float32)
            assert numpy.array_equal(
                numpy.frombuffer(values, numpy.float32).reshape(expected.shape), expected)
    target = bytearray(b"\xff" * source.nbytes)
    codec.decode_layers(container, range(1, 3), target)
    found = numpy.frombuffer(target, numpy.float16).reshape(source.shape)
    assert numpy.array_equal(found[:, 1:3], source[:, 1:3])
    assert all(byte == 0xFF for byte in found[:, 0].tobytes() + found[:, 3].tobytes())
    for layers in (range(0, LAYERS + 1), range(LAYERS, LAYERS + 1), range(0)):
        with pytest.raises(kvstore.NotDecoded, match="out of its range"):
            codec.decode_layers(container, layers, target)
    with pytest.raises(kvstore.NotDecoded):
        codec.decode_section(container, LAYERS, 0)
    with pytest.raises(kvstore.NotDecoded, match="no layers"):
        codec.decode_layers(codec.encode(b"opaque", Level.Q2), range(1), target)


class FinishedElsewhere(container_reader.Container):
    """The second reader, whose rANS streams are the codec's coefficients."""

    def __init__(self, content, codec):
        super().__init__(content)
        self.codec, self.found = codec, []

    def _found(self, decode, section, layer, kind, *rest):
        self.found.append(self.codec.coefficients(self.content, layer, kind))
        return decode(section, layer, kind, *rest)

    def _scalar(self, *arguments):
        return self._found(super()._scalar, *arguments)

    def _predicted(self, *arguments):
        return self._found(super()._predicted, *arguments)

    def stream(self, *_):
        found = self.found[-1]
        rest = found.exact_rows + found.row_codes + found.escapes
        return numpy.array(found.symbols).astype(int), rest, len(found.escapes) // 8


@pytest.mark.parametrize("name, method", [
    ("scalar: K before RoPE", "scalar"), ("scalar: exact rows, float16", "scalar"),
    ("scalar: row codes of K, float32", "scalar"), ("scalar: escapes alone", "scalar"),
    ("scalar: row codes of V", "scalar"), ("predicted: two groups", "predicted"),
    ("predicted: row codes", "predicted"),
])  # fmt: skip
def test_coefficients_are_finished_elsewhere_to_the_same_bytes(monkeypatch, name, method):
    container, profile, description, expected = profile_vector(name)
    with Codec(description, profile=profile) as codec:
        reader = FinishedElsewhere(container, codec)
        monkeypatch.setattr(container_reader, "stream", reader.stream)
        assert reader.payload(profile) == codec.decode(container) == expected
        info = codec.inspect(container)
    assert method in [each.method for each in reader.found]
    for found in reader.found:
        assert found.symbols.shape == (found.row_count, found.column_count)
        assert found.row_count + found.exact_row_count == info.token_count
        assert (found.mode, found.level, found.first_position, found.profile_hash) == (
            info.mode, info.level, info.first_position, info.profile_hash)
        assert found.group_layer_count == reader.group
        places = numpy.frombuffer(found.escapes, "<u4")[::2]
        assert numpy.array_equal(places, numpy.flatnonzero(numpy.array(found.symbols) == -128))


def test_coefficients_that_cannot_be_had():
    container, profile, description, payload_ = profile_vector("scalar: embedded")
    with Codec(description, profile=profile) as codec:
        for wrong, reason, text in [
                (container, "profile unsuitable", "embedded"),
                (codec.encode(payload_, Level.LOSSLESS), "no coefficients", "decode it to values"),
                (Codec().encode(b"opaque", Level.ZSTD), "layout", "no layers"),
                (container[:-1], "truncated", "cut off")]:
            with pytest.raises(kvstore.NotDecoded, match=text) as refusal:
                codec.coefficients(wrong, 0, 0)
            assert refusal.value.reason == reason
        with pytest.raises(kvstore.NotDecoded, match="out of its range"):
            codec.coefficients(container, 100, 0)
        for layer, kind in [(0, 2), (0, -1), (-1, 0)]:
            with pytest.raises(kvstore.InvalidArgument):
                codec.coefficients(container, layer, kind)
    with Codec(description) as codec, pytest.raises(kvstore.NotDecoded, match="needs profile"):
        codec.coefficients(container, 0, 0)


def many_tokens(source):
    """A payload of that vector's layout [layer, kv, token, head, channel] with 32 times the tokens,
    so that its container is smaller."""
    rows = numpy.frombuffer(source, numpy.uint16).reshape(2, 2, -1, 16)
    return numpy.tile(rows, (1, 1, 32, 1)).tobytes()


def test_profiles_are_used_and_checked():
    container, profile, description, source = profile_vector("scalar: K before RoPE")
    level, source = Codec().inspect(container).level, many_tokens(source)
    with Codec(description, profile=profile) as codec:
        made = codec.encode(source, level, first_position=70)
        assert codec.inspect(made).mode == "scalar"
        assert 0 < error(source, codec.decode(made), bfloat16) < 0.6
        # The profile's means are those before RoPE, so the position must be known.
        assert codec.inspect(codec.encode(source, level)).mode == "cachegen"
    with Codec(DESCRIPTION) as other:
        with pytest.raises(kvstore.NotDecoded) as refusal:
            other.add_profile(profile)
        assert refusal.value.reason == "profile unsuitable"
    with Codec(description) as codec:
        damaged = bytearray(profile)
        damaged[len(damaged) // 2] ^= 1
        with pytest.raises(kvstore.NotDecoded) as refusal:
            codec.add_profile(damaged)
        assert refusal.value.reason == "profile damaged"


def test_bounds():
    with Codec(DESCRIPTION, payload_byte_count_max=1_000) as small:
        assert small.decode(small.encode(bytes(1_000), Level.ZSTD)) == bytes(1_000)
        with pytest.raises(kvstore.NotDecoded) as refusal:
            small.encode(bytes(1_001), Level.ZSTD)
        assert refusal.value.reason == "workspace too small"
        with Codec() as large, pytest.raises(kvstore.NotDecoded) as refusal:
            small.decode(large.encode(bytes(1_001), Level.ZSTD))
        assert refusal.value.reason == "workspace too small"
        for level in (Level.RAW, Level.ADAPTIVE, 7):
            with pytest.raises(kvstore.NotDecoded, match="out of its range"):
                small.encode(b"1", level)
        with pytest.raises(kvstore.InvalidArgument):
            small.encode(b"", Level.ZSTD)
    for count in (0, 2**28 + 1):
        with pytest.raises(kvstore.InvalidArgument):
            Codec(payload_byte_count_max=count)
    with pytest.raises(kvstore.WrongState):
        small.encode(b"1", Level.ZSTD)
    assert Codec(DESCRIPTION).knows_layout and not Codec({"engine": "another"}).knows_layout


def test_threads_take_turns_and_children_go_on(codec):
    sources = [payload(seed).tobytes() for seed in range(4)]
    expected = [codec.encode(source, Level.Q2) for source in sources]
    found = [[] for _ in sources]

    def run(index):
        for _ in range(3):
            found[index].append(codec.encode(sources[index], Level.Q2))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[each] * 3 for each in expected]
    child = os.fork()
    if child == 0:
        os._exit(0 if codec.encode(sources[0], Level.Q2) == expected[0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setenv("KVSTORE_CODEC_LIBRARY", "/nowhere/libkvstore-codec.so.0")
    kvstore.codec._load.cache_clear()
    try:
        with pytest.raises(ImportError, match="dev/build-libkvstore"):
            Codec()
    finally:
        kvstore.codec._load.cache_clear()


# With the daemon ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [Level.ZSTD, Level.LOSSLESS, *LOSSY])
@pytest.mark.parametrize("parts", [1, 3])
def test_put_encoded_get_raw(client, codec, level, parts):
    source = payload(int(level)).tobytes()
    layout = client.describe_layout(DESCRIPTION)
    key = client.opaque_key(f"put {level} {parts}".encode())
    cut = [source[index * len(source) // parts:(index + 1) * len(source) // parts]
           for index in range(parts)]
    assert client.put(key, cut, layout_id=layout, first_position=0, level=level, codec=codec)
    assert not client.put(key, cut, layout_id=layout, level=level, codec=codec)
    info = client.lookup([key])[0]
    assert info.level == level and info.byte_count < len(source)
    expected = codec.decode(codec.encode(source, level, first_position=0))
    assert client.get(key) == expected
    assert client.get(key, level=Level.AS_STORED, codec=codec) == expected
    assert (expected == source) == (level <= Level.LOSSLESS)
    stored_level, container = client.get_encoded([key], Level.AS_STORED)[0]
    assert stored_level == level and codec.decode(container) == expected


@pytest.mark.parametrize("level", LOSSY)
def test_put_raw_get_encoded(client, codec, level):
    source = payload(20 + level).tobytes()
    layout = client.describe_layout(DESCRIPTION)
    keys = [client.opaque_key(f"get {level} {index}".encode()) for index in range(3)]
    for key in keys[:2]:
        client.put(key, source, layout_id=layout, first_position=512)
    found = client.get_many(keys, level=level, codec=codec)
    expected = codec.decode(codec.encode(source, level, first_position=512))
    assert found == [expected, expected, None]
    assert 0 < error(source, found[0]) < 0.5
    assert [each and each[0] for each in client.get_encoded(keys, level)] == [level, level, None]
    assert client.get(keys[0]) == source  # what is stored has not changed


def test_what_does_not_become_smaller_is_stored_raw(client, codec):
    key, noise = client.opaque_key(b"noise"), os.urandom(10_000)
    client.put(key, noise, level=Level.ZSTD, codec=Codec())
    assert client.lookup([key])[0].level == Level.RAW
    assert client.get(key, level=Level.Q2, codec=codec) == noise


def test_damaged_and_foreign_containers_are_refused(client, codec):
    layout = client.describe_layout(DESCRIPTION)
    container = codec.encode(payload(), Level.Q2, first_position=0)
    key = client.opaque_key(b"refused")
    for wrong in (container[:-1], container[:70], b"no container"):
        with pytest.raises(kvstore.Unsupported):
            client.put(key, wrong, layout_id=layout, level=Level.Q2)
    with pytest.raises(kvstore.Unsupported, match="level"):
        client.put(key, container, layout_id=layout, level=Level.Q3)
    with pytest.raises(kvstore.Unsupported, match="layout"):
        client.put(key, container, layout_id=bytes(range(16)), level=Level.Q2)
    with pytest.raises(kvstore.InvalidArgument):
        client.put(key, container, layout_id=layout, level=7)
    with pytest.raises(kvstore.InvalidArgument):
        client.get(key, level=Level.Q2)
    assert client.get(key) is None
    # A damaged section is seen when it is decoded: here, and by the daemon, which deletes it.
    container[-1] ^= 1
    assert client.put(key, container, layout_id=layout, level=Level.Q2)
    with pytest.raises(kvstore.NotDecoded, match="damaged"):
        client.get(key, level=Level.AS_STORED, codec=codec)
    client.ping()
    assert client.get(key) is None


def test_layouts_and_profiles_from_the_namespace(client):
    container, profile, description, source = profile_vector("scalar: K before RoPE")
    level, source = Codec().inspect(container).level, many_tokens(source)
    digest = hashlib.sha256(profile).digest()[:16]
    layout = hashlib.sha256(description).digest()[:16]
    secret = client.secret()

    def key(prefix, name):
        return hmac.new(secret, prefix + name, "sha256").digest()

    assert client.layout_description(layout) is None and client.profile(layout) is None
    assert not Codec.of_layout(client, layout).knows_layout
    client.put(key(b"l1", layout), description)
    client.put(key(b"f1", digest), profile)
    client.put(key(b"f2", layout), digest + bytes(16))
    assert client.layout_description(layout) == description
    assert client.profile(layout) == client.profile(layout, digest) == profile
    chunk = client.opaque_key(b"with a profile")
    with Codec.of_layout(client, layout) as codec:
        client.put(chunk, source, layout_id=layout, first_position=70, level=level, codec=codec)
        stored, made = client.get_encoded([chunk], Level.AS_STORED)[0]
        assert (stored, codec.inspect(made).profile_hash) == (level, digest)
        assert client.get(chunk, level=level, codec=codec) == codec.decode(made)
    # Without the profile, and with another one, an error says what is missing.
    with Codec(description) as codec:
        with pytest.raises(kvstore.NotDecoded, match="needs profile " + digest.hex()):
            client.get(chunk, level=level, codec=codec)
        codec.add_profile(client.profile(layout, digest))
        assert client.get(chunk, level=level, codec=codec) is not None
    # What is stored under a name and is not what the name says is not used.
    client.delete([key(b"f1", digest)])
    client.put(key(b"f1", digest), profile + b"\0")
    with pytest.raises(kvstore.Damaged):
        client.profile(layout)


def test_canonical_descriptions_have_the_id_of_their_layout():
    made = canonical_description(DESCRIPTION)
    assert hashlib.sha256(made).digest()[:16] == kvstore.layout_id(DESCRIPTION)
