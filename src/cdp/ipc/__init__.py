"""Unix sockets, and messages on them.

    unix_socket   the one way to bind a listening unix socket
    link          JSON messages and file descriptors between processes
    stop_signals  the signals that stop a server
    errors        an error as JSON, and back
"""
