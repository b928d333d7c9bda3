"""The transmission phase of NBD.

    connection  the loop of one connection: requests in, target calls, replies out
    nbd_wire.c  requests and replies as bytes: parse, check, build; nbd_sock.h: receive and wait
"""
