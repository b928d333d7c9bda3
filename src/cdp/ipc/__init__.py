"""Unix sockets, messages on them, and what else processes say to each other.

    unix_socket       the one way to bind a listening unix socket
    link              JSON messages and file descriptors between processes
    stop_signals      the signals that stop a server
    service_manager   readiness said to systemd, and sockets that it passes
    log_lines         the log on standard error, as text or JSON
    errors            an error as JSON, and back
"""
