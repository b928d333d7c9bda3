from typing_extensions import Buffer

from cdpcore.channel.mdpacket import MDPacket

def execute(capsule: object, packet: MDPacket, buffers: list[Buffer], read_only: bool = False) -> str: ...
