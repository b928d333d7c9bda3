"""MDPacket: 128 bytes at fixed places, fields set and read at their limits, one door with a test a refusal; packets
carried out."""
from __future__ import annotations

import struct

import pytest

from cdp.platform import BgDeliveryMsg, BgRef, GroupName, add_ref_to, refs_of
from cdpcore.base.errors import InvalidRequest
from cdpcore.bench.ram_disk import RamDisk
from cdpcore.channel.mdpacket import MAX_BGS, PACKET_BYTES, Flag, MDPacket, Op
from cdpcore.channel.packets import execute

pytestmark = [pytest.mark.plain, pytest.mark.sanitize]

FIELDS = {  # name: (offset, struct code)
    "version": (0, "B"), "op": (1, "B"), "flags": (2, "H"), "lun": (4, "I"), "lba": (8, "Q"), "length_bytes": (16, "Q"),
    "cookie": (24, "Q"),
    "timestamp_ns": (32, "Q"), "seq": (40, "Q"), "skew_bytes": (48, "H"), "n_bgs": (50, "B"), "status": (51, "B"),
    "sys_errno": (52, "H"),
    "bg_home": (54, "H"), "source_id": (56, "H"), "source_instance": (58, "H"), "epoch": (60, "I"),
}
SIZE = 1 << 20


def test_fields_lie_where_the_layout_says_and_cover_the_header():
    assert sum(struct.calcsize(code) for _, code in FIELDS.values()) == 64
    for name, (offset, code) in FIELDS.items():
        packet = MDPacket()
        packet.version = 0
        top = (1 << 8 * struct.calcsize(code)) - 1
        for value in (0, 1, top - 1, top):
            setattr(packet, name, value)
            assert getattr(packet, name) == value
            want = bytearray(PACKET_BYTES)
            struct.pack_into("<" + code, want, offset, value)
            assert bytes(packet) == want, name
        for bad in (-1, top + 1):
            with pytest.raises(OverflowError):
                setattr(packet, name, bad)
        assert getattr(packet, name) == top


def test_references_copies_and_views():
    packet = MDPacket(Op.WRITE, 3, offset_bytes=4 * 512 + 5, length_bytes=9)
    for i in range(MAX_BGS):
        packet.add_bg(i, 2**32 - 1, 5, 6)
    with pytest.raises(InvalidRequest):
        packet.add_bg(0, 1, 0, 1)
    assert [packet.bg(i) for i in range(4)] == [(i, 2**32 - 1, 5, 6) for i in range(4)]
    with pytest.raises(IndexError):
        packet.bg(4)
    assert (packet.lba, packet.skew_bytes, packet.offset_bytes) == (4, 5, 2053)
    same = MDPacket.from_bytes(bytes(packet))
    assert same == packet and bytes(memoryview(same)) == bytes(packet)
    same.cookie = 1
    assert same != packet and same.copy() == same
    memory = bytearray(bytes(packet))
    view = MDPacket.view(memory)
    view.seq = 77
    assert MDPacket.from_bytes(memory).seq == 77 and packet.seq == 0
    for bad in (b"x" * 127, b"x" * 129):
        with pytest.raises(InvalidRequest):
            MDPacket.from_bytes(bad)
    with pytest.raises((InvalidRequest, ValueError, BufferError)):
        MDPacket.view(bytes(128))   # read-only
    with pytest.raises(InvalidRequest):
        MDPacket.view(memoryview(bytearray(137))[1:129])
    with pytest.raises(TypeError):
        hash(packet)


def request(op: Op = Op.WRITE, offset: int = 512, length: int = 1024, **fields: int) -> MDPacket:
    packet = MDPacket(op, 7, offset_bytes=offset, length_bytes=length)
    if op in (Op.READ, Op.WRITE):
        packet.add_bg(0, 1, 0, length)
    for name, value in fields.items():
        setattr(packet, name, value)
    return packet


def test_sound_requests():
    for op in (Op.READ, Op.WRITE, Op.ZERO, Op.TRIM):
        request(op).check(SIZE)
        request(op, 0, SIZE).check(SIZE)
        request(op, SIZE - 1, 1).check(SIZE)
    request(flags=Flag.FUA | Flag.REPLAY).check(SIZE)
    request(Op.FLUSH, 0, 0).check(0)
    request(Op.INQUIRE, 0, 0).check(0)
    request(Op.TRIM, 2**63, 2**62).check(2**64 - 512)


@pytest.mark.parametrize("packet, why", [
    (request(version=2), "unknown version"),
    (request(op=0), "unknown operation"),
    (request(op=7), "unknown operation"),
    (request(flags=Flag.RESPONSE), "an answer where a request belongs"),
    (request(flags=16), "flags that it cannot have"),
    (request(flags=Flag.READ_ONLY), "flags that it cannot have"),
    (request(Op.READ, flags=Flag.FUA), "FUA on an operation"),
    (request(n_bgs=5), "too many buffer groups"),
    (request(Op.FLUSH, 0, 512), "without a range"),
    (request(Op.FLUSH, 512, 0), "without a range"),
    (request(Op.INQUIRE, 0, 0, n_bgs=1), "without a range"),
    (request(skew_bytes=512), "past its sector"),
    (request(Op.TRIM, length=0), "without a length"),
    (request(offset=SIZE), "past the end"),
    (request(offset=SIZE - 1023), "past the end"),
    (request(lba=2**64 - 1), "past the end"),
    (request(lba=2**55), "past the end"),
    (request(Op.TRIM, length=2**64 - 1), "past the end"),
    (request(n_bgs=0), "do not hold its data"),
    (request(length_bytes=1023), "do not hold its data"),
    (request(Op.TRIM, n_bgs=1), "empty buffer reference"),
    (request(n_bgs=2), "empty buffer reference"),
])
def test_refusals(packet: MDPacket, why: str):
    with pytest.raises(InvalidRequest, match=why):
        packet.check(SIZE)
    assert execute(RamDisk(SIZE).capsule, packet, []) and packet.status == 1 and packet.flags & Flag.RESPONSE


def test_a_reference_that_wraps_is_refused():
    packet = request()
    packet.set_bg(0, 0, 1, 2**32 - 1, 1024)
    with pytest.raises(InvalidRequest, match="wraps"):
        packet.check(SIZE)


def test_packets_on_a_disk():
    disk = RamDisk(SIZE).capsule
    parts = [bytearray(b"a" * 700), bytearray(b"b" * 1), bytearray(b"c" * 3000)]

    def packet(op: Op) -> MDPacket:
        made = MDPacket(op, 0, offset_bytes=777, length_bytes=3701)
        for i, part in enumerate(parts):
            made.add_bg(i, 1, 0, len(part))
        return made

    write = packet(Op.WRITE)
    assert execute(disk, write, parts) == "" and write.flags == Flag.RESPONSE and not write.status
    found = [bytearray(len(part)) for part in parts]
    assert execute(disk, packet(Op.READ), found) == "" and found == parts
    zero = MDPacket(Op.ZERO, 0, offset_bytes=777, length_bytes=701)
    assert execute(disk, zero, []) == ""
    execute(disk, packet(Op.READ), found)
    assert found[0] == bytes(700) and found[1] == b"\0" and found[2] == parts[2]
    size = MDPacket(Op.INQUIRE)
    assert execute(disk, size, []) == "" and size.length_bytes == SIZE and not size.flags & Flag.READ_ONLY
    assert execute(RamDisk(SIZE, read_only=True).capsule, size := MDPacket(Op.INQUIRE),
                   []) == "" and size.flags & Flag.READ_ONLY
    assert "read-only" in execute(disk, write := packet(Op.WRITE), parts, True) and write.status == 5
    assert "not all mapped" in execute(disk, packet(Op.WRITE), parts[:2])
    assert "another length" in execute(disk, packet(Op.WRITE), [*parts[:2], bytearray(1)])
    with pytest.raises(BufferError):
        execute(disk, packet(Op.READ), [bytes(part) for part in parts])


def test_a_volume_puts_its_seq_into_the_packet(tmp_path):
    import cdp

    with cdp.create(tmp_path / "v", size=SIZE) as volume:
        memory = bytearray(128)
        packet = MDPacket.view(memory)
        packet.version, packet.op, packet.length_bytes = 1, Op.WRITE, 512
        packet.add_bg(0, 1, 0, 512)
        assert execute(volume.target(), packet, [bytes(512)]) == ""
        assert MDPacket.from_bytes(memory).seq == volume.window().newest.seq > 0


def test_structures():
    packet = request(Op.FLUSH, 0, 0)
    add_ref_to(packet, BgRef(3, 1, 2, 4, 8))
    assert refs_of(packet) == [BgRef(3, 1, 2, 4, 8)]
    with pytest.raises(InvalidRequest):
        add_ref_to(packet, BgRef(4, 1, 2, 4, 8))
    assert BgRef(3, 1, 2, 4, 8).part(2, 6) == BgRef(3, 1, 2, 6, 6)
    for bad in ((-1, 1), (0, 0), (4, 5)):
        with pytest.raises(InvalidRequest):
            BgRef(3, 1, 2, 4, 8).part(*bad)
    message = BgDeliveryMsg(2**64 - 1, (BgRef(65535, 1, 2, 3, 4), BgRef(0, 2**32 - 1, 1, 0, 1)))
    assert BgDeliveryMsg.parse(bytes(message)) == message
    for bad in (b"", b"BGDM", bytes(message)[:-1], bytes(message) + b"x", b"XXXX" + bytes(message)[4:], MDPacket()):
        with pytest.raises(InvalidRequest):
            BgDeliveryMsg.parse(bad)
    for bad in (GroupName(-1, 0), GroupName(0, 65536)):
        with pytest.raises(InvalidRequest):
            bad.check()
