"""The transmission phase of NBD.

    loop        the phase of one connection: requests in, replies out, in order; what carries them out is a subclass
    connection  requests carried out on the spot by calls of a target (parked ones: cdpcore.channel.gateway)
    nbd_wire.c  requests and replies as bytes: parse, check, build; nbd_sock.h: receive and wait
"""
