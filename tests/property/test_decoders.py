"""Every decoder on inputs that nobody sent: a value that encodes to the same bytes, or a named error.

Never another exception, never memory for a length that an input claims, never bytes that are left over. What
was found to break a decoder once is kept in tests/vectors/decoders.json.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from property.mutations import changed_bytes, changed_value, outcome
from protocol.secagg_loop import SAVING_KEY, SPARSE, Loop, complete, config_of, identity_of, policy_of
from unit.test_secagg_messages import codecs

from fedsec import masks
from fedsec.accounting import Composed, Gaussian, Laplace, PLDAccountant, PoissonSampled, RDPAccountant
from fedsec.accounting.codec import canonical, decode, encode, parse
from fedsec.errors import FedsecError, IdentityError, InvalidArgumentError, ProtocolError, StoreError
from fedsec.secagg import (
    Client,
    Directory,
    Enrolment,
    Identity,
    Participant,
    Quantizer,
    Rotation,
    Schema,
    Server,
    SessionStore,
)
from fedsec.secagg.config import Config, decode_config
from fedsec.secagg.identity import _statements as statements
from fedsec.secagg.messages import Kind

# FEDSEC_LONG=1 HYPOTHESIS_PROFILE=explore draws thousands of new inputs for each.
LONG = os.environ.get("FEDSEC_LONG") == "1"
SOME = settings(
    max_examples=5000 if LONG else 80, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
FOUND = json.loads((Path(__file__).parents[1] / "vectors" / "decoders.json").read_text())

AUTHORITY = identity_of(1)
EVENTS = Composed([PoissonSampled(Gaussian(1.1), 0.01), Laplace(2.0)])


# --- bytes: by name, valid inputs and what decodes and encodes again ---


@functools.cache
def sessions():
    """Two sessions, played to their end."""
    loops = Loop(4), Loop(parameters=SPARSE)
    for loop in loops:
        loop.finish()
    return loops


def bodies(loop, kind):
    """All bodies of a kind that went over the wire."""
    said = [message for heap in (loop.given, loop.sent) for rows in heap.values() for message in rows]
    return [message[38:] for message in said if message[1] == kind]


def wire(kind, ring):
    loop = sessions()[ring]
    decode_body, encode_body = codecs(loop.config)[kind - 1]
    return bodies(loop, kind), lambda body: encode_body(decode_body(body)), ProtocolError


def configurations():
    grid = Quantizer(granularity=2**-10, max_abs=8.0, num_clients=4)
    made = [
        config_of(complete(4)),
        config_of(SPARSE, model_digest=None),
        config_of(complete(4), quantizer=grid, modulus_bits=32),
        config_of(complete(4), profile="semi_honest"),
    ]
    return [one.to_bytes() for one in made], lambda data: decode_config(data).to_bytes(), InvalidArgumentError


def trusted_configurations():
    config = config_of(complete(4))
    return (
        [config.to_bytes()],
        lambda data: Config.from_bytes(data, config.participants).to_bytes(),
        InvalidArgumentError,
    )


def schemas():
    arrays = {"w": np.zeros((3, 2), np.float32), "b": np.zeros(2), "n": np.zeros((), np.int64)}
    made = [Schema.of(arrays, integers="leave_out"), Schema.of({"x": np.zeros(3, np.float16)})]
    return (
        [one.to_bytes() for one in made],
        lambda data: Schema.from_bytes(data).to_bytes(),
        InvalidArgumentError,
    )


def enrolments():
    made = [Enrolment.new(identity_of(i), i, f"Clinic {i}", AUTHORITY.public_key) for i in (10, 20)]
    return [one.to_bytes() for one in made], lambda data: Enrolment.from_bytes(data).to_bytes(), IdentityError


def rotations():
    made = Rotation.new(identity_of(10), identity_of(20), 10, AUTHORITY.public_key)
    return [made.to_bytes()], lambda data: Rotation.from_bytes(data).to_bytes(), IdentityError


@functools.cache
def directory():
    made = Directory.new(AUTHORITY.public_key)
    for i in (10, 20, 30):
        made = made.add(Enrolment.new(identity_of(i), i, f"Clinic {i}", AUTHORITY.public_key))
    made = made.rotate(Rotation.new(identity_of(20), identity_of(21), 20, AUTHORITY.public_key))
    return made.revoke(30, "closed")


def directories():
    return (
        [directory().to_bytes(AUTHORITY), Directory.new(AUTHORITY.public_key).to_bytes(AUTHORITY)],
        lambda data: Directory.from_bytes(data, AUTHORITY.public_key).to_bytes(AUTHORITY),
        IdentityError,
    )


def packed(bits):
    rng = np.random.default_rng(bits)
    vector = rng.integers(0, 2**bits, 11, dtype=np.uint64).astype(masks.lane_dtype(bits))
    return (
        [masks.pack(vector, bits)],
        lambda data: bytes(masks.pack(masks.unpack(data, 11, bits), bits)),
        InvalidArgumentError,
    )


BYTES = {
    **{
        f"{kind.name.lower()} message, {'sparse' if ring else 'complete'} graph": functools.partial(
            wire, kind, ring
        )
        for kind in Kind
        for ring in (False, True)
        if ring or kind not in (Kind.COMMITTEE, Kind.REVEAL)
    },
    "configuration": configurations,
    "configuration against a trust store": trusted_configurations,
    "schema": schemas,
    "enrolment": enrolments,
    "rotation": rotations,
    "directory": directories,
    "vector packed to 7 bits": functools.partial(packed, 7),
    "vector packed to 32 bits": functools.partial(packed, 32),
}


@functools.cache
def decoder(name):
    """Valid inputs, what decodes one and encodes it again, and the error for all others."""
    return BYTES[name]()


@pytest.mark.parametrize("name", BYTES)
@SOME
@given(data=st.data())
def test_changed_bytes_decode_to_what_encodes_to_them_or_are_refused(name, data):
    samples, again, error = decoder(name)
    given = data.draw(changed_bytes(samples))
    kind, found = outcome(again, given, errors=error)
    assert kind == "refused" or found == given


@pytest.mark.parametrize("name", BYTES)
def test_what_is_valid_is_taken_and_nothing_behind_it(name):
    """The control: the samples themselves decode, and with one byte more they do not."""
    samples, again, error = decoder(name)
    assert samples
    for sample in samples:
        assert outcome(again, bytes(sample), errors=error) == ("value", sample)
        if not name.startswith("upload"):  # whose end the vector's length says
            assert outcome(again, sample + b"\0", errors=error)[0] == "refused"


@functools.cache
def saved_sessions():
    loop = Loop(4).until("upload")
    return loop.clients[10].to_bytes(SAVING_KEY), loop.server.to_bytes(SAVING_KEY), loop.config


@SOME
@given(data=st.data())
def test_a_saved_session_opens_unchanged_or_not_at_all(data):
    client, server, config = saved_sessions()
    given = data.draw(changed_bytes([client, server]))
    own = {"policy": policy_of(config), "store": SessionStore.in_memory()}
    for sample, load in (
        (client, lambda data: Client.from_bytes(data, SAVING_KEY, identity_of(10), **own)),
        (server, lambda data: Server.from_bytes(data, SAVING_KEY)),
    ):
        kind, _ = outcome(load, given, errors=InvalidArgumentError)
        assert kind == ("value" if given == sample else "refused")


# --- files ---


@functools.cache
def folder():
    return tempfile.TemporaryDirectory(prefix="fedsec-decoders-")


def file_of(name, data):
    path = Path(folder().name) / name
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@functools.cache
def key_files():
    path = Path(folder().name) / "key.pem"
    identity_of(10).save(path)
    return (path.read_bytes(),)


@SOME
@given(data=st.data())
def test_a_key_file_is_the_same_key_or_another_one_or_refused(data):
    """PEM is not canonical; what loads is an Ed25519 key."""
    path = file_of("changed.pem", data.draw(changed_bytes(key_files())))
    kind, found = outcome(lambda _: Identity.load(path), b"", errors=IdentityError)
    assert kind == "refused" or isinstance(found, Identity)


@functools.cache
def participant():
    """A client at rest whose upload is due, its folder, and what lies in it in each phase."""
    loop, place = Loop(4), Path(folder().name) / "participant"
    one = Participant(place, 10, identity_of(10), policy=policy_of(loop.config))
    files = []
    loop.clients[10].start()
    one.join(loop.config)
    files.append((place / "session").read_bytes())
    return one, loop.config.session_id, tuple(files)


@SOME
@given(data=st.data())
def test_a_session_file_of_a_participant(data):
    """It is read as it was written, or refused; and no message is answered from one that was changed."""
    one, session_id, files = participant()
    given = data.draw(changed_bytes(files))
    file_of("participant/session", given)
    kind, found = outcome(lambda _: one._rest(), given, errors=StoreError)
    assert kind == "refused" or found is None or found.to_bytes() == given
    with pytest.raises(FedsecError):
        one.answer(session_id, b"no message", lambda _: pytest.fail("a vector was asked for"))


# --- texts and values ---


@SOME
@given(changed_value([json.loads(directory().to_bytes(AUTHORITY))]))
def test_a_directory_of_an_authority_that_signs_anything(members):
    """Behind the signature: an authority that is wrong, or lies, gets no other error either."""
    if isinstance(members, dict):
        kind = members.pop("format", "")
        members.pop("signature", None)
        try:
            signature = AUTHORITY.sign(statements.to_sign(str(kind), members))
            data = statements.spell(str(kind), members | {"signature": signature.hex()})
        except (ValueError, TypeError):  # no JSON
            return
    else:
        data = json.dumps(members, allow_nan=True).encode()
    kind, found = outcome(
        lambda data: Directory.from_bytes(data, AUTHORITY.public_key), data, errors=IdentityError
    )
    assert kind == "refused" or found.to_bytes(AUTHORITY) == data


@SOME
@given(changed_value([encode(EVENTS), encode(Gaussian(1.0))]))
def test_an_event_from_any_values(values):
    kind, found = outcome(decode, values)
    assert kind == "refused" or decode(encode(found)) == found


@SOME
@given(changed_bytes([canonical(encode(EVENTS)).encode()]))
def test_an_event_from_any_text(data):
    text = data.decode("utf-8", "surrogateescape")
    kind, found = outcome(lambda text: decode(parse(text)), text)
    assert kind == "refused" or decode(parse(canonical(encode(found)))) == found


@pytest.mark.parametrize("kind", [RDPAccountant, PLDAccountant])
@SOME
@given(data=st.data())
def test_a_state_of_an_accountant(kind, data):
    """What is refused leaves the accountant as it was."""
    mine = kind().compose(Gaussian(3.0), 2)
    before = mine.state_dict()
    given = data.draw(changed_value([kind().compose(EVENTS, 10).state_dict()]))
    what, _ = outcome(mine.load_state_dict, given)
    assert what == "value" or mine.state_dict() == before


@pytest.mark.parametrize("case", FOUND["cases"], ids=lambda case: case["name"])
def test_what_was_found(case):
    """Inputs that broke a decoder once; each is refused by name since."""
    known = {"event": decode}
    assert outcome(known[case["decoder"]], case["input"])[0] == "refused"
