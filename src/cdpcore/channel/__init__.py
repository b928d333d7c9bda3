"""Shared memory between a gateway and a daemon, and what runs on it.

    channel        the shared memory (channel.h says who writes what), and what a failover does to it
    gateway        the gateway's end: an NBD connection whose requests another process carries out
    executor       the daemon's end: packets through a target
    mdpacket       MDPacket, one request or answer in 128 bytes (mdpacket.h)
    packets        packets of the portable API carried out on a target
    python_target  a Python function as a target
    pool           memory in fixed slots, for buffer groups
"""
