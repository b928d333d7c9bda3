"""The transmission phase of NBD.

    loop        the phase of one connection: requests in, replies out, in order; what carries them out is a subclass
    connection  requests carried out by calls of a target: on the spot, or handed to a worker if they have to wait
                (those that another process carries out: cdpcore.channel.gateway)
    memory      what the connections of a server share for large requests, and whose turn it is (nbd_memory.c)
    sparse      replies to reads that leave out holes
    nbd_wire.c  requests and replies as bytes: parse, check, build; nbd_sock.h: receive and wait
"""
