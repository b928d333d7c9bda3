"""The server: volumes over NBD, and their administration over HTTP.

    server                       start, stop, and what is served
    handover                     replacing a server, or a gateway, while its clients stay connected
    exports, addresses           names to exports; where they are offered
    admin                        the administration socket of a server; loads http_api with its first client
    http_api                     cdp.service.local behind HTTP
    waiting                      requests that wait for the next event
    held                         what the administration API is given of each served volume
    alerting                     where alerts go: the log, a program, a URL
    monitor, prometheus          /metrics and /healthz
    standbys                     where standbys on other hosts connect (cdp.standby)
    opening                      which volumes are being opened still, or could not be
    luns                         the platform and the TSD that it stands on
    image_cache                  writable images that are open
    capturing, capture_session   the server of a volume that is being captured, and one run of `cdp capture`
"""
